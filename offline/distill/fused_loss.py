"""The loss of the target model against a weighted mixture of source models, without ever writing the mixture down.

Cross-entropy is linear in the target distribution, so for weights w over K sources

    H(sum_k w_k P_k, Q) = sum_k w_k H(P_k, Q)                      (arXiv 2505.23844, eq. of the fused loss)

and H(P_k, Q) needs Q only at the few tokens that P_k names, and Q's mass everywhere else for `other`. Memory is
O(N K k), not O(N K V); the only thing of the vocabulary's size is the logits that training needs anyhow. Reverse KL and
JSD are not linear in P; they are taken per source and then weighted, over the same tokens and one bucket for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

Divergence = Literal["forward", "reverse", "jsd", "uld"]
"""`forward`: cross-entropy H(P, Q), the paper's; `reverse`: KL(Q || P); `jsd`: the generalised JSD of GKD, beta 0.5;
`uld`: Universal Logit Distillation, a baseline, at temperature 1 only (see `sorted_l1`)."""

LEAST = 1e-9
"""Floor under a probability inside a logarithm."""


@dataclass(frozen=True, slots=True)
class TeacherRows:
    """One source at N positions: `ids` int64 [N, k] of the target's tokens, each at most once, -1 where there is none;
    `probs` float [N, k]; `other` float [N]; `valid` bool [N]. As `offline.distill.signals.AlignedRows`, as tensors."""

    ids: Tensor
    probs: Tensor
    other: Tensor
    valid: Tensor

    def to(self, device: object) -> TeacherRows:
        """The same rows on another device."""
        return TeacherRows(*(part.to(device) for part in (self.ids, self.probs, self.other, self.valid)))


class Losses(NamedTuple):
    """Means over positions, in nats: what is descended, and its two parts. `fused` is 0 where no source is valid."""

    total: Tensor
    clm: Tensor
    fused: Tensor


def training_loss(
    logits: Tensor, labels: Tensor, rows: Sequence[TeacherRows], weights: Tensor, *,
    mix: float, divergence: Divergence = "forward", temperature: float = 1.0, counts: Tensor | None = None,
) -> Losses:  # fmt: skip
    """(1 - mix) CLM + mix * fused, over N positions, which count as `counts` [N] says, all alike if it is None.

    `logits` [N, V] predict `labels` int64 [N], -100 where nothing is learned (no source teaches there either).
    `weights` [N, K]: of each source at each position; they are normalised over the sources that are valid there.

    Raises
    ------
    ValueError: `mix` outside [0, 1], a temperature of 0 or less, or shapes that do not fit.
    """
    _require(logits, labels, rows, weights, mix, temperature, divergence)
    learned = labels >= 0
    log_total = logits.logsumexp(dim=-1)
    at_label = logits.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    counted = learned.to(logits.dtype) if counts is None else learned * counts
    clm = _mean(log_total - at_label, counted)
    if mix == 0.0 or not rows:
        return Losses(clm, clm, clm.new_zeros(()))
    softened = log_total if temperature == 1.0 else (logits / temperature).logsumexp(dim=-1)
    fused = fused_loss(logits, softened, rows, weights, divergence, temperature, counted)
    return Losses((1.0 - mix) * clm + mix * fused, clm, fused)


def fused_loss(
    logits: Tensor, log_total: Tensor, rows: Sequence[TeacherRows], weights: Tensor,
    divergence: Divergence = "forward", temperature: float = 1.0, counts: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Mean over the positions that at least one source with a weight above 0 teaches; 0 if there is none. They count as
    `counts` [N] says.

    `log_total` [N]: logsumexp of `logits / temperature`. The square of the temperature keeps gradients of one size.
    """
    import torch

    shares = _shares(rows, weights)
    if divergence == "uld":
        parts = [sorted_l1(logits, source) for source in rows]
    else:
        # One gather for all sources: its backward pass writes a gradient of the vocabulary's size once, not K times.
        named = torch.cat([source.ids for source in rows], dim=-1).clamp_min(0)
        said = logits.gather(-1, named).split([source.ids.shape[-1] for source in rows], dim=-1)
        parts = [
            _divergence(at, log_total, source, divergence, temperature) for at, source in zip(said, rows, strict=True)
        ]
    summed = (shares * torch.stack(parts, dim=-1)).sum(dim=-1)
    taught = (shares.sum(dim=-1) > 0).to(logits.dtype)
    return temperature**2 * _mean(summed, taught if counts is None else taught * counts)


def _shares(rows: Sequence[TeacherRows], weights: Tensor) -> Tensor:
    """Weights [N, K] over the valid sources, each row summing to 1, or to 0 where none is valid."""
    import torch

    valid = torch.stack([source.valid for source in rows], dim=-1)
    kept = weights * valid
    return kept / kept.sum(dim=-1, keepdim=True).clamp_min(LEAST)


def _divergence(said: Tensor, log_total: Tensor, source: TeacherRows, kind: Divergence, temperature: float) -> Tensor:
    """[N] nats, from the logits [N, k] of the tokens that the source names; finite everywhere, and meaningless where
    the source is not valid (its share is 0 there)."""
    import torch

    named = source.ids >= 0
    log_q = said / temperature - log_total.unsqueeze(-1)
    log_q = torch.where(named, log_q, torch.zeros_like(log_q))
    q = torch.where(named, log_q.exp(), torch.zeros_like(log_q))
    rest = (1.0 - q.sum(dim=-1)).clamp_min(LEAST)
    p, other = _softened(source, named, temperature)
    if kind == "forward":
        return -(p * log_q).sum(dim=-1) - other * rest.log()
    if kind == "reverse":
        inside = torch.where(named, q * (log_q - p.clamp_min(LEAST).log()), torch.zeros_like(q)).sum(dim=-1)
        return inside + rest * (rest.log() - other.clamp_min(LEAST).log())
    return _jensen_shannon(p, q, named) + _jensen_shannon(other.unsqueeze(-1), rest.unsqueeze(-1), None)


def _softened(source: TeacherRows, named: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The source's probabilities at this temperature; `other` is softened as one token, which is all that is known."""
    import torch

    p = torch.where(named, source.probs, torch.zeros_like(source.probs))
    other = source.other + torch.where(named, torch.zeros_like(source.probs), source.probs).sum(dim=-1)
    if temperature == 1.0:
        return p, other
    p, other = p ** (1.0 / temperature), other ** (1.0 / temperature)
    total = (p.sum(dim=-1) + other).clamp_min(LEAST)
    return p / total.unsqueeze(-1), other / total


def _jensen_shannon(p: Tensor, q: Tensor, named: Tensor | None) -> Tensor:
    """The part of JSD(P, Q) at beta 0.5 of these tokens, summed over the last axis."""
    import torch

    log_p, log_q = p.clamp_min(LEAST).log(), q.clamp_min(LEAST).log()
    log_m = (0.5 * (p + q)).clamp_min(LEAST).log()
    part = 0.5 * (p * (log_p - log_m) + q * (log_q - log_m))
    return (part if named is None else torch.where(named, part, torch.zeros_like(part))).sum(dim=-1)


def sorted_l1(logits: Tensor, source: TeacherRows) -> Tensor:
    """Universal Logit Distillation (ULD): the L1 distance of the sorted probabilities, [N]. A baseline: it does not ask
    which tokens they are. Of the target's distribution the largest k are compared, the rest as one number."""
    k = source.probs.shape[-1]
    top = logits.softmax(dim=-1).topk(min(k, logits.shape[-1]), dim=-1).values
    ranked = source.probs.sort(dim=-1, descending=True).values[:, : top.shape[-1]]
    return (top - ranked).abs().sum(dim=-1) + ((1.0 - top.sum(dim=-1)) - source.other).abs()


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """The mean with these weights [N]; 0 if they are all 0. Values that do not count may be anything."""
    import torch

    return torch.where(counts > 0, values * counts, torch.zeros_like(values)).sum() / counts.sum().clamp_min(LEAST)


def _require(
    logits: Tensor, labels: Tensor, rows: Sequence[TeacherRows], weights: Tensor, mix: float, temperature: float,
    divergence: Divergence,
) -> None:  # fmt: skip
    if not 0.0 <= mix <= 1.0:
        raise ValueError(f"expected a mix in [0, 1], got {mix}")
    if temperature <= 0.0:
        raise ValueError(f"expected a temperature above 0, got {temperature}")
    if divergence == "uld" and temperature != 1.0:
        raise ValueError(f"uld compares probabilities as they are: expected a temperature of 1, got {temperature}")
    if logits.shape[:1] != labels.shape:
        raise ValueError(f"expected labels of shape [{logits.shape[0]}], got {list(labels.shape)}")
    if rows and tuple(weights.shape) != (logits.shape[0], len(rows)):
        raise ValueError(f"expected weights of shape [{logits.shape[0]}, {len(rows)}], got {list(weights.shape)}")
