"""Who is in the fleet: names, architectures, tokenizers, own families and training lengths. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from demo.fleet.families import FAMILIES

Architecture = Literal["llama", "gpt2", "gpt_neox", "qwen2"]
Role = Literal["specialist", "generalist", "target", "sage", "follower"]
MODELS_DIR = Path(__file__).parent / "models"
CONTEXT_WINDOW = 1024
"""Tokens of prompt and answer together, for every model of the fleet."""


@dataclass(frozen=True, slots=True)
class Member:
    """One model of the fleet. `vocabulary` 0 means single characters, otherwise the size of a byte-level BPE.

    Every `block_every`-th step has `block_batch` questions behind reference text instead (0: none).
    `steps` are optimiser steps of `batch` questions each; heads always have 32 dimensions.
    """

    name: str
    role: Role
    architecture: Architecture
    families: tuple[str, ...]
    vocabulary: int
    steps: int
    seed: int
    hidden: int = 128
    intermediate: int = 384
    layers: int = 4
    batch: int = 64
    block_every: int = 6
    block_batch: int = 16
    learning_rate: float = 2e-3
    initial_std: float = 0.02

    @property
    def folder(self) -> Path:
        return MODELS_DIR / self.name


EVERYTHING = tuple(FAMILIES)
ROSTER: dict[str, Member] = {
    member.name: member
    for member in (
        Member("calc-llama", "specialist", "llama", ("add", "units"), 0, 900, 11, initial_std=0.08),
        # Learned positions do not carry over to other offsets: reference text before a question throws this one anyway.
        Member(
            "letters-gpt2", "specialist", "gpt2", ("reverse", "vowels"), 0, 2200, 12,
            intermediate=512, block_every=0, initial_std=0.08,
        ),
        Member("clerk-neox", "specialist", "gpt_neox", ("facts", "roman"), 512, 500, 13, intermediate=512),
        Member("order-qwen", "specialist", "qwen2", ("sort", "dates"), 1000, 800, 14),
        Member("jack-llama", "generalist", "llama", EVERYTHING, 0, 1600, 15, batch=32, block_batch=8, initial_std=0.08),
        Member("target-llama", "target", "llama", EVERYTHING, 0, 150, 16, hidden=192, intermediate=512),
    )
}  # fmt: skip
SERVED = tuple(ROSTER)
"""Names of all models, in the order in which they are listed everywhere."""

CODE_BOOK: dict[str, Member] = {
    member.name: member
    for member in (
        Member("sage-llama", "sage", "llama", ("codes", "sorting"), 1000, 1200, 21, initial_std=0.08),
        Member("follower-llama", "follower", "llama", ("codes", "sorting"), 1000, 1500, 22, batch=32, initial_std=0.08),
    )
}
"""The two models of the proof of thought templates (`demo.fleet.codes`). They are no part of the fleet's routes."""
ALL_MEMBERS = ROSTER | CODE_BOOK
