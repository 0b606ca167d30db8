"""A learned selection: the weight of each source for each document, from what can be seen of the document.

The paper's network, with what its released code lacks: it persists, is saved, is trained on what it is for, and is used
only where it beats the weights of whole domains on documents that neither has seen. It descends

    - 1/T sum_t log sum_k w_k(x_d) P_k(y_t)  +  beta CV^2(importance),      w(x) = softmax(log w_domain + x W)

so that W = 0 is the selection by domain; `beta` is annealed to 0, which keeps one source from being lost early.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from offline.distill.selection import normalised
from offline.paired_bootstrap import intervals
from registry.atomic_files import place_file

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]

STEPS, RATE = 300, 0.05
PENALTIES = (1e-4, 1e-3, 1e-2)
"""Strengths of the ridge on W that are tried; chosen on a part of the training documents."""
BALANCE = 0.05
"""Weight of the balance term at the first step; it falls to 0 by the middle."""


@dataclass(frozen=True, slots=True)
class Said:
    """What K sources say of T tokens of D documents.

    `likely` [T, K]: probabilities scaled so that the largest of a token is 1; 0 where a source is not valid, and only
    there. `owner` int [T]: the document of each token.
    """

    likely: F64
    owner: Ints
    documents: int

    @classmethod
    def of(cls, gold: F64, valid: Mask, owner: Ints, documents: int) -> Said:
        """From log-probabilities; tokens that no source is valid at are left out."""
        seen = valid.any(axis=1)
        gold, valid = gold[seen], valid[seen]
        top = np.where(valid, gold, -np.inf).max(axis=1, keepdims=True)
        likely = np.maximum(np.exp(np.where(valid, gold - top, 0.0)), 1e-200)
        return cls(np.where(valid, likely, 0.0), owner[seen], documents)

    def only(self, chosen: Mask) -> Said:
        """The tokens of the chosen documents [D]."""
        here = chosen[self.owner]
        return Said(self.likely[here], self.owner[here], self.documents)


@dataclass(frozen=True, slots=True)
class Gate:
    """`weights` [F, K] float64 of the standardised features; `mean`, `scale` [F]."""

    weights: F64
    mean: F64
    scale: F64

    def __call__(self, features: F64, domain: F64) -> F64:
        """Weights [D, K] of the sources, from features [D, F] and the weights [D, K] of the documents' domains."""
        return _softmax(np.log(np.maximum(domain, 1e-9)) + (features - self.mean) / self.scale @ self.weights)

    def save(self, path: Path) -> None:
        place_file(path, save({"weights": self.weights, "mean": self.mean, "scale": self.scale}))

    @classmethod
    def read(cls, path: Path) -> Gate:
        """Raises OSError or safetensors' SafetensorError if the file cannot be read."""
        return cls(**load(path.read_bytes()))


@dataclass(frozen=True, slots=True)
class Chosen:
    """Whether the gate is used. `gain`: nats per document that it saves on documents neither has seen, with its 95 %
    interval; it is used if the whole interval lies above 0."""

    gate: Gate
    used: bool
    gain: tuple[float, float, float]


def learn(features: F64, domain: F64, said: Said, *, seed: int = 0) -> Chosen:
    """Train a gate on two thirds of the documents and compare it on the rest with `domain` [D, K].

    `domain` should be fitted on the same two thirds (`training_documents`), or it has seen what it is judged on.

    Raises
    ------
    ValueError: fewer than 30 documents, or arrays that do not fit.
    """
    if len(features) < 30 or len(features) != len(domain) != said.documents:
        raise ValueError(f"expected at least 30 documents with features and weights, got {len(features)}")
    train = training_documents(len(features), seed)
    inner = train & training_documents(len(features), seed + 1)
    best = min(
        PENALTIES, key=lambda penalty: _loss(fit(features, domain, said.only(inner), penalty)(features, domain),
                                             said.only(train & ~inner)).sum(),
    )  # fmt: skip
    gate = fit(features, domain, said.only(train), best)
    held = said.only(~train)
    saved = (_loss(domain, held) - _loss(gate(features, domain), held))[np.unique(held.owner)]
    made = intervals(saved[:, None], np.ones((len(saved), 1)), seed=seed)[0]
    return Chosen(gate, made.low > 0.0, (made.mean, made.low, made.high))


def training_documents(count: int, seed: int) -> Mask:
    """bool [D]: two thirds of the documents."""
    return np.random.default_rng([seed, 17]).random(count) < 2.0 / 3.0


def fit(features: F64, domain: F64, said: Said, penalty: float) -> Gate:
    """The gate of these tokens, by Adam on the whole set; deterministic."""
    mean, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
    x = (features - mean) / scale
    base = np.log(np.maximum(domain, 1e-9))
    weights = np.zeros((x.shape[1], domain.shape[1]))
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    counts = np.bincount(said.owner, minlength=said.documents).astype(np.float64)
    total = max(counts.sum(), 1.0)
    for step in range(STEPS):
        shares = _softmax(base + x @ weights)
        pull = _pull(shares, said) / total
        beta = BALANCE * max(0.0, 1.0 - 2.0 * step / STEPS)
        gradient = -x.T @ pull + penalty * weights + (x.T @ _balance(shares, counts) * beta if beta else 0.0)
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        moved = first / (1 - 0.9 ** (step + 1)) / (np.sqrt(second / (1 - 0.99 ** (step + 1))) + 1e-9)
        weights = weights - RATE * moved
    return Gate(weights, mean, scale)


def _pull(shares: F64, said: Said) -> F64:
    """[D, K] gradient of the log-likelihood by the logits: how responsible each source was, minus its share."""
    known = said.likely > 0.0
    mine = np.where(known, shares[said.owner], 0.0)
    joint = mine * said.likely
    responsible = joint / np.maximum(joint.sum(axis=1, keepdims=True), 1e-300)
    difference = responsible - mine / np.maximum(mine.sum(axis=1, keepdims=True), 1e-300)
    made = np.zeros_like(shares)
    np.add.at(made, said.owner, difference)
    return made


def _balance(shares: F64, counts: F64) -> F64:
    """[D, K] gradient of CV^2 of the sources' importance, by the logits."""
    share = counts / max(counts.sum(), 1.0)
    importance = share @ shares
    mean = importance.mean()
    by_importance = 2.0 * (importance - mean) / (len(importance) * mean**2)
    inner = shares * by_importance
    made: F64 = share[:, None] * (inner - shares * inner.sum(axis=1, keepdims=True))
    return made


def _loss(shares: F64, said: Said) -> F64:
    """[D] nats: minus the log-likelihood of each document's tokens under the mixture of the valid sources."""
    mine = np.where(said.likely > 0.0, shares[said.owner], 0.0)
    mixed = (mine * said.likely).sum(axis=1) / np.maximum(mine.sum(axis=1), 1e-300)
    lost = -np.log(np.maximum(mixed, 1e-300))
    return np.bincount(said.owner, weights=lost, minlength=said.documents).astype(np.float64)


def _softmax(logits: F64) -> F64:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    made: F64 = raised / raised.sum(axis=1, keepdims=True)
    return made


def even(count: int, sources: int) -> F64:
    """Even weights [D, K]."""
    return np.tile(normalised(np.ones(sources)), (count, 1))
