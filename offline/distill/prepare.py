"""From a recipe to what is trained: conversations in the target's tokens, with what every source says of them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from offline.distill.alignment import align
from offline.distill.recipe import Recipe, RecipeError, TeacherRecipe
from offline.distill.samples import Conversation, DataError, Sample, read_conversations
from offline.distill.signal_store import SignalStore, score_all
from offline.distill.teachers import ChatFormat, LocalTeacher, Teacher, TeacherError, VllmTeacher, text_hash
from offline.distill.token_bytes import TokenizedText
from offline.distill.vocabulary import map_vocabulary

Said = Callable[[str], None]
MOST_OF_VLLM = 20
"""How many logprobs a vLLM server gives unless it was started with more."""
SIGNALS = "signals"
"""Folder beside the output where signals are kept, so that recipes of one output folder share them."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is trained and what it is judged by.

    `samples` with the signals of `teachers`, in this order; `holdout` is never trained on. `bytes_of` int64 [R] of each
    sample's reply tokens; `texts`: its last user message. `left_out`: how many conversations were left out, by reason;
    `unscored`: by teacher.
    """

    format: ChatFormat
    samples: list[Sample]
    holdout: list[Conversation]
    teachers: tuple[str, ...]
    bytes_of: list[np.ndarray]
    texts: list[str]
    left_out: Counter[str] = field(default_factory=Counter)
    unscored: dict[str, Counter[str]] = field(default_factory=dict)
    bytes_per_token: dict[str, float] = field(default_factory=dict)


def prepare(recipe: Recipe, say: Said = lambda line: None) -> Prepared:
    """Read, tokenise, have every source score what it has not scored before, and align.

    Raises
    ------
    DataError, RecipeError, TeacherError, TokenizerError, SignalStoreError.
    """
    chat = ChatFormat(recipe.target.model)
    train, holdout = split(recipe)
    if not train:
        raise DataError(f"{recipe.data.train}: nothing is left to train on after the holdout is taken")
    made, left_out = _tokenised(train, chat, recipe.training.length)
    say(f"{len(made)} conversations to train on, {len(holdout)} held out, {sum(left_out.values())} left out")
    if not made:
        raise DataError(f"none of the {len(train)} conversations fits: {dict(left_out)}")
    samples = [sample for _, sample, _ in made]
    prepared = Prepared(
        chat, samples, holdout, (), [np.diff(reply.byte_spans, axis=1)[:, 0].astype(np.int64) for *_, reply in made],
        [str(conversation.messages[-2].get("content")) for conversation, *_ in made], left_out,
    )  # fmt: skip
    for stated in recipe.teachers:
        if stated.kind != "text":
            prepared = _with_teacher(prepared, recipe, stated, made, say)
    return prepared


def split(recipe: Recipe) -> tuple[list[Conversation], list[Conversation]]:
    """Training and held-out conversations; by the hash of the prompt where the recipe names no holdout."""
    everything = read_conversations(recipe.data.train)
    if recipe.data.holdout is not None:
        return everything, read_conversations(recipe.data.holdout)
    out = [_held(conversation, recipe.data.holdout_share) for conversation in everything]
    return (
        [one for one, held in zip(everything, out, strict=True) if not held],
        [one for one, held in zip(everything, out, strict=True) if held],
    )


def _held(conversation: Conversation, share: float) -> bool:
    prompt = "\x01".join(str(message.get("content")) for message in conversation.messages[:-1])
    return int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16) < share * 0x1_0000_0000


Tokenised = list[tuple[Conversation, Sample, TokenizedText]]


def _tokenised(train: Sequence[Conversation], chat: ChatFormat, length: int) -> tuple[Tokenised, Counter[str]]:
    made: Tokenised = []
    left_out: Counter[str] = Counter()
    for conversation in train:
        try:
            prompted = chat.prompted(conversation)
        except (TeacherError, ValueError):
            left_out["not representable"] += 1
            continue
        sample = Sample(
            conversation.id, conversation.domain, np.asarray(prompted.prompt, np.int32), prompted.reply.token_ids,
            conversation.weight,
        )  # fmt: skip
        if sample.length > length:
            left_out[f"longer than {length} tokens"] += 1
        elif not prompted.prompt:
            left_out["empty prompt"] += 1
        else:
            made.append((conversation, sample, prompted.reply))
    return made, left_out


def teacher_of(stated: TeacherRecipe, keep: int) -> Teacher:
    """Raises RecipeError: its API key is not in the environment."""
    if stated.model is None:
        raise RecipeError(f"teacher {stated.name} says nothing but text")
    if stated.kind == "local":
        return LocalTeacher(stated.name, stated.model, top=keep)
    key = None if stated.api_key_env is None else os.environ.get(stated.api_key_env)
    if stated.api_key_env is not None and not key:
        raise RecipeError(f"teacher {stated.name}: the environment variable {stated.api_key_env} is not set")
    top = min(keep, MOST_OF_VLLM)
    return VllmTeacher(stated.name, str(stated.url), str(stated.served_as), stated.model, api_key=key, top=top)


def _with_teacher(prepared: Prepared, recipe: Recipe, stated: TeacherRecipe, made: Tokenised, say: Said) -> Prepared:
    teacher = teacher_of(stated, recipe.selection.keep)
    store = SignalStore(recipe.output.parent / SIGNALS, teacher.model_hash, teacher.tokens.digest)
    failed = score_all(teacher, [conversation for conversation, *_ in made], store)
    mapping = map_vocabulary(teacher.tokens, prepared.format.tokens)
    samples = []
    for (conversation, _, reply), sample in zip(made, prepared.samples, strict=True):
        signal = store.get(text_hash(conversation))
        rows = None if signal is None else align(reply, signal, mapping)
        samples.append(replace(sample, signals=(*sample.signals, rows)))
    say(
        f"{stated.name}: {len(made) - len(failed)} replies scored, {store.bytes_per_token():.0f} bytes per token, "
        f"{100 * mapping.shared:.0f} % of its tokens are the target's"
    )
    return replace(
        prepared, samples=samples, teachers=(*prepared.teachers, stated.name),
        unscored=prepared.unscored | {stated.name: Counter(str(error).split(";")[0] for error in failed.values())},
        bytes_per_token=prepared.bytes_per_token | {stated.name: store.bytes_per_token()},
    )  # fmt: skip


def data_files(recipe: Recipe) -> list[Path]:
    """The files that the weights depend on beside the recipe."""
    found = [recipe.data.train, *([] if recipe.data.holdout is None else [recipe.data.holdout])]
    return found + sorted(recipe.target.model.glob("*.safetensors"))
