"""What a distillation will take, before it begins: tokens, memory, time."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from offline.distill.prepare import split
from offline.distill.recipe import Recipe
from offline.distill.teachers import ChatFormat, TeacherError

BYTES = 4
"""Of a float32."""
PROBE = 512
"""Side of the matrices that this machine's speed is measured with."""
OVERHEAD = 3.0
"""A real step takes about so many times as long as its multiplications."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """`tokens` of the training set in the target's tokens; `passes` over it; memory in bytes at the peak; time in
    seconds on this machine, without what was done before. `usd` is 0 where all sources are local, None where a served
    source has no known price."""

    conversations: int
    held_out: int
    tokens: int
    passes: float
    parameters: int
    memory_bytes: int
    signal_bytes: int
    signal_s: float
    training_s: float
    usd: float | None


def estimate(recipe: Recipe) -> Estimate:
    """Reads the data and the sizes of the models; loads no model.

    Raises
    ------
    DataError, RecipeError, TeacherError: the recipe cannot be run at all.
    """
    chat = ChatFormat(recipe.target.model)
    train, holdout = split(recipe)
    lengths = []
    for conversation in train:
        try:
            made = chat.prompted(conversation)
        except (TeacherError, ValueError):
            continue
        lengths.append((len(made.prompt) + len(made.reply.token_ids), len(made.reply.token_ids)))
    tokens, replied = sum(whole for whole, _ in lengths), sum(reply for _, reply in lengths)
    size = parameters(recipe.target.model)
    runs = 1 + len(recipe.evaluation.controls)
    seen = recipe.training.steps * recipe.training.batch * recipe.training.length
    speed = multiplications_per_second()
    teachers = [parameters(stated.model) for stated in recipe.teachers if stated.kind == "local" and stated.model]
    block = recipe.training.batch * recipe.training.length
    vocabulary = len(chat.tokens.by_id)
    # Writing the replies and having them scored are small beside this.
    later = 0 if recipe.on_policy is None else recipe.on_policy.rounds * recipe.on_policy.steps * block
    return Estimate(
        conversations=len(lengths), held_out=len(holdout), tokens=tokens, passes=seen / max(tokens, 1),
        parameters=size,
        # Weights, gradients and two moments; logits and their gradient.
        memory_bytes=BYTES * (4 * size + 3 * block * vocabulary),
        signal_bytes=replied * recipe.selection.keep * 4 * sum(stated.kind != "text" for stated in recipe.teachers),
        signal_s=sum(2.0 * each * tokens for each in teachers) / speed * OVERHEAD,
        training_s=6.0 * size * (seen * runs + later) / speed * OVERHEAD,
        usd=None if any(stated.kind == "vllm" for stated in recipe.teachers) else 0.0,
    )  # fmt: skip


def parameters(folder: Path) -> int:
    """How many numbers a model's weights are, read from the headers of its files."""
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - this is a method of the file, not of a dict
                count = 1
                for side in file.get_slice(name).get_shape():
                    count *= side
                total += count
    return total


def multiplications_per_second() -> float:
    """Floating-point operations per second of a matrix product here, the best of three."""
    import torch

    left, right = torch.randn(PROBE, PROBE), torch.randn(PROBE, PROBE)
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - began)
    return float(2 * PROBE**3 / best)
