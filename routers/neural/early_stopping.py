"""Gradient descent that stops where held-out queries say so. Needs torch; only fitting imports it.

Parameters are a dict of tensors and models are functions of them, so that what is learned is arrays from the start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routers.protocol import F32, Outcomes, TrainingError
from routers.rows import split

HELD_OUT = 0.15
MIN_CELLS = 20
"""With fewer held-out cells there is no telling when to stop."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to descend: at most `epochs` over the rows in batches, ending `patience` epochs after the best one."""

    epochs: int
    patience: int
    batch: int
    rate: float
    decay: float


def torch_module() -> Any:
    """The module `torch`.

    Raises
    ------
    TrainingError: it is not installed; says what to do.
    """
    try:
        import torch
    except ImportError as error:
        raise TrainingError(
            "neural routers are trained with torch: run `pip install torch==2.13.0`, or train another router"
        ) from error
    return torch


def inner_split(outcomes: Outcomes, seed: int) -> tuple[Outcomes, Outcomes]:
    """(training part, part by which training stops) of prepared outcomes, by content."""
    return split(outcomes, HELD_OUT, f"early-stopping-{seed}")


def can_stop(training: Outcomes, held_out: Outcomes) -> bool:
    """Whether both parts hold enough scored cells to learn from the one and to stop by the other."""
    return all(int((~np.isnan(part.quality)).sum()) >= MIN_CELLS for part in (training, held_out))


def descended(
    parameters: dict[str, Any],
    objective: Callable[[Any], Any],
    held_out_loss: Callable[[], float],
    rows: int,
    plan: Plan,
    seed: int,
) -> dict[str, F32]:
    """The parameters of the lowest held-out loss, the initial ones included, as arrays.

    Parameters
    ----------
    parameters: tensors that require gradients; they are changed.
    objective: the loss of a batch, given its row numbers (int64 tensor); a scalar tensor.
    held_out_loss: the loss on the held-out queries with the parameters as they are.
    """
    torch = torch_module()
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(list(parameters.values()), lr=plan.rate, weight_decay=plan.decay)
    with torch.no_grad():
        lowest, best, waited = held_out_loss(), as_arrays(parameters), 0
    for _ in range(plan.epochs):
        for chunk in torch.randperm(rows, generator=generator).split(plan.batch):
            optimiser.zero_grad()
            objective(chunk).backward()
            optimiser.step()
        with torch.no_grad():
            loss = held_out_loss()
        if loss < lowest:
            lowest, best, waited = loss, as_arrays(parameters), 0
            continue
        waited += 1
        if waited >= plan.patience:
            break
    return best


def as_arrays(parameters: dict[str, Any]) -> dict[str, F32]:
    """Copies of the parameters as float32 arrays."""
    return {name: tensor.detach().numpy().astype(np.float32, copy=True) for name, tensor in parameters.items()}


def as_parameters(arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Tensors that require gradients, from arrays."""
    torch = torch_module()
    return {name: torch.tensor(array, dtype=torch.float32, requires_grad=True) for name, array in arrays.items()}


def masked_loss(logits: Any, scores: Any, weights: Any) -> Any:
    """Cross-entropy of scores in [0, 1], summed over cells with their weights. Tensors [n, M]; scores without NaN."""
    torch = torch_module()
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, scores, reduction="none")
    return (losses * weights).sum()
