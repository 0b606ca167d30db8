"""A training set: examples, preference pairs, and a manifest with a digest. Built once, the same for every rank.

Equal logs, settings and seeds give equal bytes.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Where an example comes from.

    `step`: the episode in its log. `path`: names from the main domain to the leaf `node`. `agreement` in (0, 1]: see
    `offline.bohdi.candidates`. `checked`: an exact checker found the answer right. `may_train`: what the licences of
    the sources say, None if that is not known; `terms`: those of them that the trained model has to keep.
    """

    step: str
    round: int
    node: str
    path: tuple[str, ...]
    model: str
    model_version: str
    target_version: str
    prompts_version: str
    method: Literal["checker", "judge", "majority"]
    agreement: float
    checked: bool
    reward: float
    origin: Literal["fresh", "replay"]
    cost_usd: float | None = None
    style: str = ""
    licences: tuple[str, ...] = ()
    may_train: bool | None = None
    terms: tuple[str, ...] = ()


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A question and its answer. `weight` > 0; the mean over the set is 1."""

    question: str
    answer: str
    weight: float
    provenance: Provenance


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """Two answers to one question of the set, of which the first is better."""

    step: str
    question: str
    chosen: str
    rejected: str
    chosen_model: str
    rejected_model: str
    weight: float


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a set is made of.

    `digest`: of all examples and pairs, in order. `events`: of the log, up to the last that was read. `wanted`:
    examples that were asked for; there are fewer if the log does not hold as many. `left_out`: episodes by reason.
    `leaves`, `sources`: how many examples are from which leaf, and by which model.
    """

    digest: str
    tree: str
    tenant: str
    target: str
    target_version: str
    events: int
    seed: int
    wanted: int
    fresh: int
    replay: int
    replay_share: float
    pairs: int
    left_out: dict[str, int]
    leaves: dict[str, int]
    sources: dict[str, int]
    licences: tuple[str, ...]
    may_train: bool | None
    benchmarks: tuple[str, ...]
    benchmark_questions: int


class TrainingSet(msgspec.Struct, frozen=True, kw_only=True):
    """Examples in the order in which they were drawn, with their pairs."""

    examples: tuple[Example, ...]
    pairs: tuple[Pair, ...]
    manifest: Manifest


def digest_of(examples: tuple[Example, ...], pairs: tuple[Pair, ...]) -> str:
    """SHA-256 of what the set says, in hex."""
    digest = hashlib.sha256()
    encoder = msgspec.json.Encoder()
    for row in (*examples, *pairs):
        digest.update(encoder.encode(row) + b"\n")
    return digest.hexdigest()
