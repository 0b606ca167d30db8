"""The engine of the light server: models in memory, one worker thread that gives each sequence a token in turn.

The event loop never waits for a forward pass: it submits a `Generation` and is told of each token by a callback that
the worker thread calls. A long reply does not hold up a short one. `cancel()` frees a sequence at its next turn.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from demo.fleet.decoding import render
from demo.fleet.sampling import Sampler
from demo.fleet.tokenization import end_token
from demo.fleet.wire import ApiError, Sampling, Token

MAX_ACTIVE = 16
"""More sequences than this wait their turn, first come first served."""
REPLACEMENT = "\ufffd"
logger = logging.getLogger(__name__)

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Served:
    """One model in memory."""

    name: str
    model: Any
    tokenizer: Tokenizer
    context_window: int
    end: int

    def chat_prompt(self, messages: Any) -> list[int]:
        """Token ids of a conversation (OpenAI messages) up to where the reply begins."""
        return list(self.tokenizer.encode(render(messages)).ids)

    def text_prompts(self, prompt: str | list[str | int | list[int]]) -> list[list[int]]:
        """Token ids of the prompts of a completions request: one text, several, token ids, or lists of them."""
        if isinstance(prompt, str):
            return [list(self.tokenizer.encode(prompt).ids)]
        tokens = [entry for entry in prompt if isinstance(entry, int)]
        if not tokens:
            return [ids for entry in prompt if not isinstance(entry, int) for ids in self._entry(entry)]
        if len(tokens) < len(prompt):
            raise ApiError(400, "expected texts or token ids in `prompt`, got both", param="prompt")
        return [self._known(tokens)]

    def _entry(self, entry: str | list[int]) -> list[list[int]]:
        return self.text_prompts(entry) if isinstance(entry, str) else [self._known(entry)]

    def _known(self, tokens: list[int]) -> list[int]:
        size = self.tokenizer.get_vocab_size()
        unknown = [token for token in tokens if not 0 <= token < size]
        if unknown:
            raise ApiError(400, f"expected token ids below {size} in `prompt`, got {unknown[0]}", param="prompt")
        return tokens

    def text_of(self, tokens: Iterable[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))


def load(folder: Path, name: str) -> Served:
    """Load one checkpoint in float32. Raises FileNotFoundError, saying how to make it, if it is not there."""
    if not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"expected a checkpoint in {folder}, found none; train it with `python -m demo.fleet.train --only {name}`"
        )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return Served(name, model, tokenizer, int(model.config.max_position_embeddings), end_token(tokenizer))


@dataclass(frozen=True, slots=True)
class Piece:
    """News of a sequence: text that may be sent on, the tokens since the last piece, and at the end why it ended."""

    index: int
    text: str
    tokens: tuple[Token, ...]
    finish: FinishReason | None
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker could not go on with a sequence."""

    index: int
    message: str


Listener = Callable[[Piece | Failed], None]


class Generation:
    """One sequence being generated. All methods but `cancel` run in the worker thread."""

    def __init__(
        self, served: Served, prompt: list[int], sampling: Sampling, listener: Listener, index: int = 0
    ) -> None:
        self.served, self.prompt, self.sampling, self.listener, self.index = served, prompt, sampling, listener, index
        self.sampler = Sampler(sampling, offset=index)
        self.cancelled = threading.Event()
        self.tokens: list[int] = []
        self.inputs = prompt
        self.cache: Any = None
        self.sent = 0
        self.unsent: list[Token] = []

    def cancel(self) -> None:
        """Stop at the next turn. Safe from any thread, also when the sequence has ended."""
        self.cancelled.set()

    def step(self) -> bool:
        """Generate one token and tell the listener. Returns True if the sequence has ended."""
        with torch.inference_mode():
            inputs = torch.tensor([self.inputs])
            output = self.served.model(input_ids=inputs, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
            self.cache = output.past_key_values
            return self.accept(output.logits[0, -1])

    def accept(self, logits: torch.Tensor) -> bool:
        """Choose the next token from `logits (vocabulary,)` and tell the listener. True if this was the last."""
        choice = self.sampler.choose(logits, self.tokens)
        self.inputs = [choice.token]
        self.tokens.append(choice.token)
        ended = choice.token == self.served.end and not self.sampling.ignore_eos
        if self.sampling.top_logprobs is not None and not ended:
            top = tuple((self.served.text_of([token]), value) for token, value in choice.top)
            self.unsent.append(Token(self.served.text_of([choice.token]), choice.logprob, top))
        return self._tell("stop" if ended else "length" if len(self.tokens) >= self.sampling.max_tokens else None)

    def _tell(self, finish: FinishReason | None) -> bool:
        text = self.served.text_of(self.tokens)
        cut = first_stop(text, self.sampling.stop)
        if cut is not None:
            text, finish = text[:cut], "stop"
        ready = len(text) if finish else safe_length(text, self.sampling.stop)
        if ready > self.sent or finish:
            piece = Piece(self.index, text[self.sent : ready], tuple(self.unsent), finish, len(self.tokens))
            self.unsent, self.sent = [], max(ready, self.sent)
            self.listener(piece)
        return finish is not None


def first_stop(text: str, stops: Iterable[str]) -> int | None:
    """Where the first stop string begins in `text`, or None."""
    found = [position for stop in stops if (position := text.find(stop)) >= 0]
    return min(found, default=None)


def safe_length(text: str, stops: Iterable[str]) -> int:
    """How much of `text` may be sent on: no half-decoded character, nothing that may begin a stop string."""
    length = len(text.rstrip(REPLACEMENT))
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:size]):
                length = min(length, len(text) - size)
                break
    return length


class Engine:
    """The worker thread and its queue."""

    def __init__(self, models: Iterable[Served]) -> None:
        self.models = {served.name: served for served in models}
        self.generated_tokens = 0
        # Each is written by one thread only: the first by those who submit on the event loop, the second by the worker.
        self._submitted = 0
        self._ended = 0
        self._incoming: queue.SimpleQueue[Generation | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="fleet-engine", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Sequences that were submitted and have not ended."""
        return self._submitted - self._ended

    def submit(self, generation: Generation) -> None:
        self._submitted += 1
        self._incoming.put(generation)

    def close(self) -> None:
        """Stop the worker after its current step; what still runs is dropped."""
        self._incoming.put(None)
        self._thread.join()

    def _work(self) -> None:
        torch.set_num_threads(1)
        active: deque[Generation] = deque()
        waiting: deque[Generation] = deque()
        while True:
            # Blocks only when there is nothing to do.
            while not (active or waiting) or not self._incoming.empty():
                arrived = self._incoming.get()
                if arrived is None:
                    return
                waiting.append(arrived)
            while waiting and len(active) < MAX_ACTIVE:
                active.append(waiting.popleft())
            generation = active.popleft()
            if not generation.cancelled.is_set() and not self._advance(generation):
                active.append(generation)
            else:
                self._ended += 1

    def _advance(self, generation: Generation) -> bool:
        # Counted before the step tells anybody of its token, so that whoever has been told finds it counted.
        self.generated_tokens += 1
        try:
            ended = generation.step()
        except Exception as error:  # root of the worker: one sequence's failure must not end the others
            logger.exception("generation failed")
            self.generated_tokens -= 1
            generation.listener(Failed(generation.index, f"generation failed: {error}"))
            return True
        return ended
