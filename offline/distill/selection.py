"""Which source models teach which part of the data, and with what weight.

The paper's selection network is given the sources' likelihoods of the reference text (arXiv 2505.23844, 1.2 in our
notes); trained through the fused loss it would favour whom the target already agrees with. Here the weights of a
cluster of documents are those under which the sources' mixture makes the reference text most likely, found by
expectation-maximisation: convex, without a network. A source is kept while its weight is above `threshold`, relative
to 1/K.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

THRESHOLD = 0.75
"""Of an even share 1/K: the paper's 0.15 for five sources, for any number of them."""
RETURN_MARGIN = 1.25
"""A source that was left out comes back when its weight is above the threshold by this factor (hysteresis)."""
PRIOR = 1.0
"""Positions that the Dirichlet prior of the weights is worth, for each source."""
STEPS, ENOUGH = 200, 1e-7


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """What K sources say of the reference text at T positions of the target's tokens.

    `gold` [T, K]: log-probability, in nats, of the token that stands there, where `valid` [T, K]. `cluster` int [T]:
    the cluster of the position's document.
    """

    gold: F64
    valid: Mask
    cluster: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Selection:
    """Weights [C, K] over the sources for each cluster; rows sum to 1, and are 0 for those not kept.

    `mixture` [C, K] are the weights before any source was left out: what the next selection starts from.
    """

    sources: tuple[str, ...]
    weights: F64
    mixture: F64

    def average(self, positions: NDArray[np.int64] | None = None) -> dict[str, float]:
        """The weight of each source over all clusters, each counted by its number of positions [C] if given."""
        shares = np.average(self.weights, axis=0, weights=positions)
        return {name: float(share) for name, share in zip(self.sources, shares, strict=True)}


def mixture_weights(gold: F64, valid: Mask, start: F64, prior: float = PRIOR) -> F64:
    """Weights [K] that maximise sum_t log sum_k w_k P_k(y_t) under a symmetric Dirichlet prior, by EM from `start` [K].

    A position counts with the sources that are valid there, their weights normalised; one without any does not count.
    """
    weights = np.asarray(start, dtype=np.float64)
    seen = valid.any(axis=1)
    if not seen.any():
        return normalised(weights)
    known = valid[seen]
    likely = np.where(known, np.exp(gold[seen] - _largest(gold[seen], known)), 0.0)
    for _ in range(STEPS):
        joint = likely * weights
        responsible = joint / np.maximum(joint.sum(axis=1, keepdims=True), 1e-300)
        # A source that says nothing at a position is as responsible for it as it was thought to be.
        missing = 1.0 - np.where(known, weights, 0.0).sum(axis=1, keepdims=True)
        expected = np.where(known, responsible * (1.0 - missing), weights)
        new = (expected.sum(axis=0) + prior) / (len(expected) + prior * len(weights))
        done = float(np.abs(new - weights).max()) < ENOUGH
        weights = new
        if done:
            break
    return normalised(weights)


def _largest(gold: F64, valid: Mask) -> F64:
    largest: F64 = np.where(valid, gold, -np.inf).max(axis=1, keepdims=True)
    return largest


def normalised(weights: F64) -> F64:
    """Weights [K] that sum to 1."""
    made: F64 = weights / weights.sum()
    return made


def select(
    sources: Sequence[str], said: Likelihoods, *, clusters: int, threshold: float = THRESHOLD, top: int | None = None,
    prior: float = PRIOR, before: Selection | None = None,
) -> Selection:  # fmt: skip
    """The weights of each cluster by EM. At least one source is kept in each; with `top`, at most so many.

    `before`: the last selection. Its mixture is where EM starts, its sources stay a little below the threshold, and
    those left out must clear it by a margin. Sources may have come (they start at an even share) or gone since.

    Raises
    ------
    ValueError: no source, a negative threshold, or arrays whose shapes do not fit.
    """
    _require(sources, said, clusters, threshold, top)
    mixture = np.empty((clusters, len(sources)))
    weights = np.empty_like(mixture)
    start, kept = _from_before(sources, clusters, before)
    for cluster in range(clusters):
        inside = said.cluster == cluster
        mixture[cluster] = mixture_weights(said.gold[inside], said.valid[inside], start[cluster], prior)
        weights[cluster] = keep(mixture[cluster], threshold, top=top, kept=kept[cluster])
    return Selection(tuple(sources), weights, mixture)


def keep(mixture: F64, threshold: float, *, top: int | None = None, kept: Mask | None = None) -> F64:
    """The mixture [K] without the sources below `threshold / K`, normalised; the largest is always kept.

    `kept` bool [K]: which were kept last time; the others need `RETURN_MARGIN` times as much.
    """
    bar = np.full(len(mixture), threshold / len(mixture))
    if kept is not None:
        bar = np.where(kept, bar, bar * RETURN_MARGIN)
    chosen = mixture >= bar
    if top is not None:
        chosen &= mixture >= np.sort(mixture)[-min(top, len(mixture))]
    chosen[int(mixture.argmax())] = True
    return normalised(np.where(chosen, mixture, 0.0))


def _from_before(sources: Sequence[str], clusters: int, before: Selection | None) -> tuple[F64, Sequence[Mask | None]]:
    """Where EM starts [C, K], and who was kept."""
    even = np.full((clusters, len(sources)), 1.0 / len(sources))
    if before is None or len(before.mixture) != clusters:
        return even, [None] * clusters
    place: Mapping[str, int] = {name: index for index, name in enumerate(before.sources)}
    kept = np.ones((clusters, len(sources)), dtype=np.bool_)
    for column, name in enumerate(sources):
        if name in place:
            even[:, column] = np.maximum(before.mixture[:, place[name]], 1e-3)
            kept[:, column] = before.weights[:, place[name]] > 0.0
    return even / even.sum(axis=1, keepdims=True), list(kept)


def bits_per_byte(gold: F64, valid: Mask, bytes_of: NDArray[np.int64]) -> F64:
    """[K] bits per UTF-8 byte over the positions each source is valid at, with `bytes_of` [T] each; NaN if none."""
    covered = (valid * bytes_of[:, None]).sum(axis=0)
    nats = -np.where(valid, gold, 0.0).sum(axis=0)
    return np.where(covered > 0, nats / (np.log(2.0) * np.maximum(covered, 1)), np.nan)


def uniform(sources: Sequence[str], clusters: int) -> Selection:
    """Every source with the same weight: the baseline that the papers leave out."""
    even = np.full((clusters, len(sources)), 1.0 / len(sources))
    return Selection(tuple(sources), even, even)


def min_cross_entropy(losses: F64) -> F64:
    """FuseLLM's MinCE: weight 1 for the source with the least loss. `losses` [D, K]; NaN is no candidate."""
    best = np.where(np.isnan(losses), np.inf, losses).argmin(axis=1)
    made: F64 = np.eye(losses.shape[1])[best]
    return made


def average_cross_entropy(losses: F64) -> F64:
    """FuseLLM's AvgCE: weights softmax(exp(-loss)) per document, over the sources with a loss."""
    rewards = np.where(np.isnan(losses), -np.inf, np.exp(-losses))
    raised = np.exp(rewards - rewards.max(axis=1, keepdims=True))
    made: F64 = raised / raised.sum(axis=1, keepdims=True)
    return made


def published_gate(losses: F64, rng: np.random.Generator, threshold: float = 0.15) -> F64:
    """The released code's selection: a network of fresh random weights at every call, a threshold, normalised.

    `losses` [D, K]. A baseline; its layers are drawn like those of the reference (uniform within 1/sqrt(inputs)).
    """
    state = np.exp(-losses)
    count = losses.shape[1]
    for layer, (inputs, outputs) in enumerate(((count, 2 * count), (2 * count, count), (count, count))):
        edge = 1.0 / np.sqrt(inputs)
        state = state @ rng.uniform(-edge, edge, (inputs, outputs)) + rng.uniform(-edge, edge, outputs)
        if layer < 2:
            state = 0.5 * state * (1.0 + np.tanh(0.7978845608 * (state + 0.044715 * state**3)))
    raised = np.exp(state - state.max(axis=1, keepdims=True))
    shares = raised / raised.sum(axis=1, keepdims=True)
    left = np.where(shares > threshold, shares, 0.0)
    left[np.arange(len(left)), shares.argmax(axis=1)] = shares.max(axis=1)
    made: F64 = left / left.sum(axis=1, keepdims=True)
    return made


def _require(sources: Sequence[str], said: Likelihoods, clusters: int, threshold: float, top: int | None) -> None:
    if not sources:
        raise ValueError("expected at least one source model, got none; add teachers to the recipe")
    if said.gold.shape != said.valid.shape or said.gold.shape[1:] != (len(sources),):
        raise ValueError(f"expected likelihoods of shape [T, {len(sources)}], got {list(said.gold.shape)}")
    if said.cluster.shape != said.gold.shape[:1]:
        raise ValueError(f"expected a cluster for each of {len(said.gold)} positions, got {list(said.cluster.shape)}")
    if said.cluster.size and int(said.cluster.max()) >= clusters:
        raise ValueError(f"expected clusters under {clusters}, got {int(said.cluster.max())}")
    if threshold < 0.0 or (top is not None and top < 1):
        raise ValueError(f"expected a threshold of 0 or more and a top of 1 or more, got {threshold} and {top}")
