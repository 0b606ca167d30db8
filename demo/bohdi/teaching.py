"""The training loop of the live proof: teaches the fleet's specialists to be sources, and the pupil to speak."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer

from demo.fleet.corpus import Example
from demo.fleet.decoding import greedy
from demo.fleet.tasks import Question, check
from demo.fleet.training import Encoder

WARM_UP_STEPS = 10
MAX_TOKENS = 16
"""Of an answer."""
Report = Callable[[str], None]


def teach(
    model: Any,
    encoder: Encoder,
    draw: Callable[[int], Sequence[Example]],
    steps: int,
    learning_rate: float,
    report: Report,
    every: int = 50,
) -> None:
    """Train `model` in place on what `draw(step)` gives, `steps` times: AdamW, warm-up, cosine down to a twentieth."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    losses = 0.0
    model.train()
    for step in range(steps):
        batch = encoder.batch(draw(step))
        warm = min(1.0, (step + 1) / WARM_UP_STEPS)
        rate = learning_rate * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = model(input_ids=batch.ids, labels=batch.labels).loss
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses += loss.item()
        if (step + 1) % every == 0:
            report(f"step {step + 1} loss {losses / every:.4f}")
            losses = 0.0
    model.eval()


def answered(model: Any, tokenizer: Tokenizer, asked: Mapping[str, Sequence[Question]]) -> dict[str, float]:
    """The share of the questions of each family that `model` answers exactly, greedily."""
    shares = {}
    for family, those in asked.items():
        replies = greedy(model, tokenizer, [[{"role": "user", "content": one.text}] for one in those], MAX_TOKENS)
        shares[family] = sum(check(one, reply.text) for one, reply in zip(those, replies, strict=True)) / len(those)
    return shares


def seeded(seed: int) -> Random:
    """A random generator of this seed; torch is seeded with it too."""
    torch.manual_seed(seed)
    return Random(seed)
