"""Asks source models what they say of a reply: by their logits here, over HTTP by vLLM, or as an API's top few.

The reply is scored behind the conversation as the source's own chat template writes it, so that every source is asked
in its own format; only the bytes of the reply are compared between models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import httpx
import numpy as np
from tokenizers import Tokenizer

from offline.distill.samples import Conversation
from offline.distill.signals import Capability, TeacherSignal
from offline.distill.token_bytes import TokenBytes, TokenizedText

TOP = 32
"""How many tokens of a distribution are kept."""


class TeacherError(RuntimeError):
    """A source model cannot score a reply. The message says which, why, and what to do."""


class Teacher(Protocol):
    """A source model that can be asked about replies."""

    @property
    def name(self) -> str: ...
    @property
    def capability(self) -> Capability: ...
    @property
    def model_hash(self) -> str: ...
    @property
    def tokens(self) -> TokenBytes: ...
    def score(self, conversations: Sequence[Conversation]) -> list[TeacherSignal | TeacherError]:
        """What it says of each reply, in order. An error is about that one conversation alone."""
        ...


@dataclass(frozen=True, slots=True)
class Prompted:
    """A conversation in a source's tokens: what comes before the reply, and the reply with the token that ends it."""

    prompt: list[int]
    reply: TokenizedText


class ChatFormat:
    """A model's tokenizer and chat template, read from its folder.

    Raises
    ------
    TeacherError: the folder has no tokenizer, no chat template or no token that ends a message.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        if not (folder / "tokenizer.json").exists():
            raise TeacherError(f"expected a fast tokenizer (tokenizer.json) in {folder}; convert the model's tokenizer")
        self._chat = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        if self._chat.chat_template is None or self._chat.eos_token_id is None:
            raise TeacherError(f"expected a chat template and an end token in {folder}; this is not a chat model")
        self.tokens = TokenBytes(Tokenizer.from_file(str(folder / "tokenizer.json")), end=int(self._chat.eos_token_id))
        self.pad = int(self._chat.eos_token_id if self._chat.pad_token_id is None else self._chat.pad_token_id)

    def prompted(self, conversation: Conversation) -> Prompted:
        """Raises TeacherError: the template refuses the roles. Raises TokenizerError: the reply cannot be written."""
        from jinja2 import TemplateError

        try:
            text = self._chat.apply_chat_template(
                conversation.messages[:-1], tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise TeacherError(f"its chat template refuses the conversation {conversation.id}: {error}") from error
        prompt = self.tokens.tokenizer.encode(text, add_special_tokens=False).ids
        return Prompted(list(prompt), self.tokens.tokenized(conversation.reply, ended=True))


class LocalTeacher:
    """A model in a local folder, run here by transformers; its whole distribution, cut to the top `top`."""

    capability: Capability = "logits"

    def __init__(self, name: str, folder: Path, *, top: int = TOP, batch: int = 16, device: str = "cpu") -> None:
        self.name, self.folder, self.top, self.batch, self.device = name, folder, top, batch, device
        self.format = ChatFormat(folder)

    @property
    def tokens(self) -> TokenBytes:
        return self.format.tokens

    @cached_property
    def model_hash(self) -> str:
        """A digest of the weights and the shape of the model."""
        made = hashlib.sha256()
        for path in sorted((*self.folder.glob("*.safetensors"), self.folder / "config.json")):
            made.update(path.name.encode())
            with path.open("rb") as file:
                made.update(hashlib.file_digest(file, "sha256").digest())
        return made.hexdigest()

    @cached_property
    def model(self) -> Any:
        return loaded_model(self.folder).eval().to(self.device)

    @property
    def context(self) -> int:
        """How many tokens it can read."""
        return int(getattr(self.model.config, "max_position_embeddings", 1 << 30))

    def score(self, conversations: Sequence[Conversation]) -> list[TeacherSignal | TeacherError]:
        found: list[TeacherSignal | TeacherError] = []
        for start in range(0, len(conversations), self.batch):
            found += self._batch(conversations[start : start + self.batch])
        return found

    def _batch(self, conversations: Sequence[Conversation]) -> list[TeacherSignal | TeacherError]:
        made: list[Prompted | TeacherError] = [self._prompted(conversation) for conversation in conversations]
        asked = [(index, one) for index, one in enumerate(made) if isinstance(one, Prompted)]
        signals: dict[int, TeacherSignal] = {}
        if asked:
            for (index, one), log in zip(asked, self._log_probs([one for _, one in asked]), strict=True):
                signals[index] = signal_of(
                    log, one.reply, self.top, self.model_hash, self.tokens.digest, conversations[index]
                )
        return [signals[index] if isinstance(one, Prompted) else one for index, one in enumerate(made)]

    def _prompted(self, conversation: Conversation) -> Prompted | TeacherError:
        try:
            made = self.format.prompted(conversation)
        except (TeacherError, ValueError) as error:
            return TeacherError(f"{self.name}: {error}")
        length = len(made.prompt) + len(made.reply.token_ids)
        if length > self.context:
            return TeacherError(
                f"{self.name}: expected at most {self.context} tokens, the conversation {conversation.id} has {length}"
            )
        return made

    def _log_probs(self, made: Sequence[Prompted]) -> list[np.ndarray]:
        """For each conversation float32 [R, V]: the log-distribution of each token of its reply."""
        import torch

        rows = [[*one.prompt, *one.reply.token_ids.tolist()] for one in made]
        length = max(map(len, rows))
        ids = torch.tensor([row + [self.format.pad] * (length - len(row)) for row in rows], device=self.device)
        seen = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=self.device)
        with torch.no_grad():
            logits = self.model(input_ids=ids, attention_mask=seen, use_cache=False).logits
            found = []
            for row, one in enumerate(made):
                first = len(one.prompt) - 1
                mine = logits[row, first : first + len(one.reply.token_ids)].float().log_softmax(dim=-1)
                found.append(mine.cpu().numpy())
        return found


def loaded_model(folder: Path) -> Any:
    """The model in a folder, float32; where the folder holds an adapter, its base with the adapter on it.

    Raises OSError or ValueError, with the library's words, if it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    adapter = folder / "adapter_config.json"
    base = json.loads(adapter.read_text())["base_model_name_or_path"] if adapter.exists() else str(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(
        base, local_files_only=True, trust_remote_code=False, dtype="float32"
    )
    if not adapter.exists():
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder), is_trainable=False)


def signal_of(
    log: np.ndarray, reply: TokenizedText, top: int, model_hash: str, tokenizer_hash: str, conversation: Conversation
) -> TeacherSignal:
    """The `top` likeliest of whole log-distributions [R, V], and what is left as the tail."""
    count = min(top, log.shape[1])
    chosen = np.argpartition(-log, count - 1, axis=1)[:, :count]
    order = np.take_along_axis(-log, chosen, axis=1).argsort(axis=1, kind="stable")
    chosen = np.take_along_axis(chosen, order, axis=1)
    kept = np.take_along_axis(log, chosen, axis=1)
    rest = np.maximum(1.0 - np.exp(kept.astype(np.float64)).sum(axis=1), 0.0)
    with np.errstate(divide="ignore"):
        tail = np.log(rest)
    return TeacherSignal(
        model_hash=model_hash, tokenizer_hash=tokenizer_hash, text_hash=text_hash(conversation), capability="logits",
        token_ids=reply.token_ids, byte_spans=reply.byte_spans, top_ids=chosen.astype(np.int32),
        top_logprobs=kept.astype(np.float16), tail_logprob=tail.astype(np.float16),
        gold_logprob=log[np.arange(len(log)), reply.token_ids].astype(np.float32),
        known=np.ones(len(log), dtype=np.bool_),
    )  # fmt: skip


def text_hash(conversation: Conversation) -> str:
    """A digest of the whole conversation: what a signal is about."""
    made = hashlib.sha256()
    for message in conversation.messages:
        made.update(f"{message.get('role')}\x00{message.get('content')}\x01".encode())
    return made.hexdigest()


class VllmTeacher:
    """A model behind a vLLM server, asked by `prompt_logprobs`; its tokenizer and template are read from `folder`.

    The prompt is sent as token ids, so that the server's tokens are exactly the ones that are aligned here.
    """

    capability: Capability = "top_logprobs"

    def __init__(
        self, name: str, url: str, model: str, folder: Path, *, api_key: str | None = None, top: int = 20,
        timeout_s: float = 60.0,
    ) -> None:  # fmt: skip
        self.name, self.model, self.top = name, model, top
        self.format = ChatFormat(folder)
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._client = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout_s)

    @property
    def tokens(self) -> TokenBytes:
        return self.format.tokens

    @property
    def model_hash(self) -> str:
        """A served model is known by its name alone; names of fused models hold a digest of their weights."""
        return hashlib.sha256(f"{self._client.base_url}|{self.model}".encode()).hexdigest()

    def score(self, conversations: Sequence[Conversation]) -> list[TeacherSignal | TeacherError]:
        return [self._one(conversation) for conversation in conversations]

    def _one(self, conversation: Conversation) -> TeacherSignal | TeacherError:
        try:
            made = self.format.prompted(conversation)
            said = self._ask([*made.prompt, *made.reply.token_ids.tolist()])
        except (TeacherError, ValueError) as error:
            return TeacherError(f"{self.name}: {error}")
        rows = said[len(made.prompt) :]
        if len(rows) != len(made.reply.token_ids):
            return TeacherError(
                f"{self.name}: expected logprobs of {len(made.reply.token_ids)} tokens, got {len(rows)}"
            )
        return top_signal(rows, made.reply, self.top, self.model_hash, self.tokens.digest, conversation)

    def _ask(self, ids: list[int]) -> list[dict[str, Any] | None]:
        body = {"model": self.model, "prompt": ids, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": self.top}
        try:
            answer = self._client.post("/completions", json=body)
        except httpx.HTTPError as error:
            raise TeacherError(f"{self.model} cannot be reached ({error}); start it and run again") from error
        if answer.status_code != 200:
            raise TeacherError(f"{self.model} answered {answer.status_code}: {answer.text[:200]}")
        try:
            said: list[dict[str, Any] | None] = answer.json()["choices"][0]["prompt_logprobs"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise TeacherError(
                f"{self.model} gives no prompt_logprobs; it is no vLLM server, use it as a teacher of text alone"
            ) from error
        if not isinstance(said, list):
            raise TeacherError(f"{self.model} gives no prompt_logprobs; use it as a teacher of text alone")
        return said


def top_signal(
    rows: Sequence[dict[str, Any] | None], reply: TokenizedText, top: int, model_hash: str, tokenizer_hash: str,
    conversation: Conversation,
) -> TeacherSignal:  # fmt: skip
    """From vLLM's `{token id: {"logprob": ...}}` for each token of the reply; a token without one is not known."""
    count = len(reply.token_ids)
    ids = np.full((count, top), -1, dtype=np.int32)
    logs = np.full((count, top), -np.inf, dtype=np.float32)
    gold = np.zeros(count, dtype=np.float32)
    known = np.zeros(count, dtype=np.bool_)
    for row, said in enumerate(rows):
        standing = None if said is None else said.get(str(int(reply.token_ids[row])))
        if said is None or standing is None:
            continue
        ranked = sorted(((float(entry["logprob"]), int(index)) for index, entry in said.items()), reverse=True)[:top]
        ids[row, : len(ranked)] = [index for _, index in ranked]
        logs[row, : len(ranked)] = [log for log, _ in ranked]
        gold[row], known[row] = float(standing["logprob"]), True
    rest = np.maximum(1.0 - np.exp(logs.astype(np.float64)).sum(axis=1), 0.0)
    with np.errstate(divide="ignore"):
        tail = np.log(rest)
    return TeacherSignal(
        model_hash=model_hash, tokenizer_hash=tokenizer_hash, text_hash=text_hash(conversation),
        capability="top_logprobs", token_ids=reply.token_ids, byte_spans=reply.byte_spans, top_ids=ids,
        top_logprobs=logs.astype(np.float16), tail_logprob=tail.astype(np.float16), gold_logprob=gold, known=known,
    )  # fmt: skip
