"""Trains the target model on conversations and on what its sources said of them.

One data set, one order for a seed: any process that is killed goes on from its newest checkpoint and ends with the same
weights. Where several processes train together, each takes its share of every step's blocks.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from offline.distill import checkpoints
from offline.distill.fused_loss import Divergence, Losses, training_loss
from offline.distill.packing import Batch, batch, pack
from offline.distill.samples import DataError, Sample

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

CURVE = "progress.jsonl"
SourceWeights = np.ndarray | Callable[[int], np.ndarray]
"""Weights [D, K] of K sources for each of D samples, or what gives them for a step (from 0)."""


class TrainingStopped(RuntimeError):
    """Training cannot go on. The message says at which step, why, which samples, and what is kept."""


class TrainingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the target is trained.

    `steps` optimiser steps of `batch` blocks of `length` tokens. `mix`: weight of the fused loss, warmed up from 0 over
    `mix_warmup` steps (the paper's is 0.1, its lambda 0.9). The learning rate warms up over `warmup` steps and falls to
    a tenth by a cosine. `precision`: `bf16` needs a device that has it.
    """

    steps: int
    batch: int = 8
    length: int = 512
    learning_rate: float = 1e-4
    warmup: int = 20
    weight_decay: float = 0.01
    clip: float = 1.0
    mix: float = 0.0
    mix_warmup: int = 50
    divergence: Divergence = "forward"
    temperature: float = 1.0
    precision: Literal["float32", "bf16"] = "float32"
    gradient_checkpointing: bool = False
    checkpoint_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.length < 2 or self.checkpoint_every < 1:
            raise ValueError("steps, batch and checkpoint_every must be at least 1, and length at least 2")
        if not 0.0 <= self.mix <= 1.0:
            raise ValueError(f"mix must be in [0, 1], got {self.mix}")
        if self.learning_rate <= 0.0 or self.temperature <= 0.0:
            raise ValueError("learning_rate and temperature must be above 0")
        if self.divergence == "uld" and self.temperature != 1.0:
            raise ValueError(f"uld compares probabilities as they are: temperature must be 1, got {self.temperature}")


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the curve. Losses in nats per token; `tokens_per_s` counts all tokens, prompts too."""

    step: int
    loss: float
    clm: float
    fused: float
    learning_rate: float
    tokens_per_s: float
    eta_s: float


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training did: `steps` in all, of them `resumed_at` before this call, and the last losses."""

    steps: int
    resumed_at: int
    last: Progress | None
    seconds: float


def train(
    model: Any, samples: Sequence[Sample], source_weights: SourceWeights, settings: TrainingSettings, output: Path, *,
    recipe: str, pad: int, report: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False, accelerator: Accelerator | None = None,
) -> Trained:  # fmt: skip
    """Train `model` in place, from the newest checkpoint in `output` if there is one.

    `recipe`: a digest of all that the result depends on. `stop` is asked before each step; a stopped training leaves a
    checkpoint and is gone on with later.

    Raises
    ------
    DataError: no samples, or one is longer than `settings.length`.
    TrainingStopped: the loss is not finite.
    CheckpointError: a checkpoint cannot be written, or the newest is of another recipe.
    """
    if not samples:
        raise DataError("there is nothing to train on: the data set has no samples")
    if isinstance(source_weights, np.ndarray) and source_weights.shape[0] != len(samples):
        raise ValueError(f"expected weights of {len(samples)} samples, got {source_weights.shape[0]}")
    output.mkdir(parents=True, exist_ok=True)
    with _alone(output):
        run = _Run(model, samples, source_weights, settings, output, recipe, pad, accelerator)
        return run.to_the_end(report, stop)


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Hold the folder for this training. Processes of one training, on one machine, share the hold of their first."""
    if int(os.environ.get("RANK", "0")) > 0:
        yield
        return
    with (output / ".training").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingStopped(
                f"another training writes to {output}; wait for it, stop it, or train into another folder"
            ) from error
        yield


class _Run:
    """One training from where it stands to its end."""

    def __init__(
        self, model: Any, samples: Sequence[Sample], source_weights: SourceWeights, settings: TrainingSettings,
        output: Path, recipe: str, pad: int, accelerator: Accelerator | None,
    ) -> None:  # fmt: skip
        import torch
        from accelerate import Accelerator

        self.samples, self.source_weights, self.settings = samples, source_weights, settings
        self.output, self.recipe, self.pad = output, recipe, pad
        self.blocks = pack([sample.length for sample in samples], settings.length)
        self.accelerator = accelerator or Accelerator(mixed_precision="bf16" if settings.precision == "bf16" else "no")
        torch.manual_seed(settings.seed)
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(
            trained, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
        )
        found = checkpoints.newest(output, recipe)
        self.state = checkpoints.State(layout=checkpoints.LAYOUT, step=0, recipe=recipe)
        if found is not None:
            self.state, weights, moments = found
            _restore(model, weights)
            checkpoints.restore_optimiser(optimiser, moments)
        self.model, self.optimiser = self.accelerator.prepare(model, optimiser)

    def to_the_end(self, report: Callable[[Progress], None] | None, stop: Callable[[], bool]) -> Trained:
        began, resumed_at, last = time.monotonic(), self.state.step, None
        self.model.train()
        for step in range(self.state.step, self.settings.steps):
            if stop():
                break
            last = self._step(step, began, resumed_at)
            if report is not None and self.accelerator.is_main_process:
                report(last)
            if (step + 1) % self.settings.checkpoint_every == 0 or step + 1 == self.settings.steps:
                self._keep()
        if self.state.step not in checkpoints.steps(self.output) and self.state.step > 0:
            self._keep()
        return Trained(self.state.step, resumed_at, last, time.monotonic() - began)

    def _step(self, step: int, began: float, resumed_at: int) -> Progress:
        rate, mix = learning_rate(self.settings, step), mix_at(self.settings, step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        mine = self._batch(step)
        losses = self._losses(mine, mix)
        self._require_finite("loss", losses.total.item(), step, mine)
        self.accelerator.backward(losses.total)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self._require_finite("norm of the gradient", float(norm), step, mine)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.state = msgspec.structs.replace(
            self.state, step=step + 1, seen_tokens=self.state.seen_tokens + mine.ids.numel()
        )
        spent = time.monotonic() - began
        done, tokens = step + 1 - resumed_at, mine.ids.numel() * self.accelerator.num_processes
        made = Progress(
            step=step + 1, loss=losses.total.item(), clm=losses.clm.item(), fused=losses.fused.item(),
            learning_rate=rate, tokens_per_s=done * tokens / max(spent, 1e-9),
            eta_s=spent / done * (self.settings.steps - step - 1),
        )  # fmt: skip
        if self.accelerator.is_main_process:
            self._draw(made)
        return made

    def _require_finite(self, what: str, value: float, step: int, made: Batch) -> None:
        """Before the weights are touched: what they were is still good."""
        if not math.isfinite(value):
            raise TrainingStopped(
                f"the {what} is {value} at step {step + 1}; the samples were {', '.join(made.names[:8])}; "
                f"the last good checkpoint is of step {max(checkpoints.steps(self.output), default=0)}; "
                "lower the learning rate or leave these samples out"
            )

    def _batch(self, step: int) -> Batch:
        """This process's share of the blocks of a step."""
        chosen = blocks_of(step, len(self.blocks), self.settings)
        mine = chosen[self.accelerator.process_index :: self.accelerator.num_processes] or chosen[:1]
        weights = self.source_weights if isinstance(self.source_weights, np.ndarray) else self.source_weights(step)
        return batch([self.blocks[index] for index in mine], self.samples, weights, self.pad)

    def _losses(self, made: Batch, mix: float) -> Losses:
        device = self.accelerator.device
        logits = self.model(
            input_ids=made.ids.to(device), position_ids=made.positions.to(device),
            attention_mask=attention(made.mask, self.model).to(device), use_cache=False,
        ).logits  # fmt: skip
        at_replies = logits.reshape(-1, logits.shape[-1]).index_select(0, made.at.to(device)).float()
        return training_loss(
            at_replies, made.labels.to(device), [rows.to(device) for rows in made.rows], made.weights.to(device),
            mix=mix, divergence=self.settings.divergence, temperature=self.settings.temperature,
            counts=made.counts.to(device),
        )  # fmt: skip

    def _keep(self) -> None:
        if not self.accelerator.is_main_process:
            return
        model = self.accelerator.unwrap_model(self.model)
        learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        weights = {name: tensor for name, tensor in model.named_parameters() if name in learned}
        checkpoints.write(self.output, self.state, weights, checkpoints.optimiser_tensors(self.optimiser))

    def _draw(self, made: Progress) -> None:
        with (self.output / CURVE).open("ab") as file:
            file.write(msgspec.json.encode(made) + b"\n")


def attention(mask: torch.Tensor, model: Any) -> torch.Tensor:
    """The mask as the model adds it to its scores: 0 where seen, the least number where not; [B, 1, L, L]."""
    import torch

    least = torch.finfo(torch.float32).min
    return torch.where(mask, 0.0, least).to(next(model.parameters()).dtype)


def _restore(model: Any, weights: dict[str, torch.Tensor]) -> None:
    missing = model.load_state_dict(weights, strict=False)
    if missing.unexpected_keys:
        raise checkpoints.CheckpointError(
            f"the checkpoint has {missing.unexpected_keys[0]}, which this model has not; train into another folder"
        )


def blocks_of(step: int, count: int, settings: TrainingSettings) -> list[int]:
    """The blocks of one step: every epoch in an order of its own, drawn from the seed."""
    chosen = []
    for place in range(step * settings.batch, (step + 1) * settings.batch):
        epoch, inside = divmod(place, count)
        chosen.append(_order(count, settings.seed, epoch)[inside])
    return chosen


def _order(count: int, seed: int, epoch: int) -> Sequence[int]:
    found: list[int] = np.random.default_rng([seed, epoch]).permutation(count).tolist()
    return found


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """Linear warm-up, then a cosine to a tenth."""
    warm = min(1.0, (step + 1) / max(settings.warmup, 1))
    along = step / max(settings.steps, 1)
    return settings.learning_rate * warm * (0.1 + 0.9 * 0.5 * (1.0 + math.cos(math.pi * along)))


def mix_at(settings: TrainingSettings, step: int) -> float:
    """The weight of the fused loss, warmed up so that a fresh target first learns to speak."""
    return settings.mix * min(1.0, (step + 1) / max(settings.mix_warmup, 1))


def read_curve(output: Path) -> Iterator[Progress]:
    """The curve so far; of a step that was done again after a crash the last line counts."""
    path = output / CURVE
    if not path.exists():
        return
    found: dict[int, Progress] = {}
    for line in path.read_bytes().splitlines():
        try:
            made = msgspec.json.decode(line, type=Progress)
        except msgspec.DecodeError:
            continue
        found[made.step] = made
    yield from (found[step] for step in sorted(found))
