"""What a router reads of a query: principal directions of its vector, and its feature block, standardised.

    z = [ (vector - mean) A,  (features - mean) / std cut to [-4, 4],  characters,  one column per frequent task tag ]

`A` holds the leading principal directions (or all of them), scaled by one factor so that their mean variance is 1: the
geometry of the encoder stays as it is. All columns have mean 0 over the training data, so that 0 is typical; the zero
vector maps to 0. Where no feature block is given it is filled in with what the vector lets expect of it (a linear
map), so that a model of `z` need not know which of the two it got.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from encoders.features import FEATURE_SET, TAG
from routers.protocol import F32, Outcomes

CUT = 4.0
"""Standard deviations beyond which a feature says no more."""
MIN_STD = 1e-4
TAG_ROWS, TAGS = 20, 32
"""A task tag gets a column of its own from so many rows on; at most so many tags do."""
IMPUTE_STRENGTH = 0.02
"""Ridge strength, per row, of the map from vector to features."""
LOG_CHARS = 0


@dataclass(frozen=True, slots=True)
class Inputs:
    """The map from vector and feature block to `z`, float32 [P], P = r + B.

    Attributes
    ----------
    axes: [d, r]; `shift` [r] is the mean vector along them.
    mean, scale: [F + 1] of the features and the number of characters; scale 0 where a column says nothing.
    tags: [T] codes of the tags that have a column; `tag_mean`, `tag_scale` [T].
    impute: [r, B]; B is 0 for a router that learned without features, else F + 1 + T.
    known: whether the features are the block of `encoders.features`, whose tag and length have a meaning of their own.
    """

    axes: F32
    shift: F32
    mean: F32
    scale: F32
    tags: F32
    tag_mean: F32
    tag_scale: F32
    impute: F32
    known: bool

    @property
    def width(self) -> int:
        """P, the length of `z`."""
        return int(sum(self.impute.shape))

    @classmethod
    def learned(cls, outcomes: Outcomes, rank: int | None = None) -> Self:
        """From prepared outcomes; `rank` is the number of principal directions, None for all dimensions as they are."""
        vectors = outcomes.vectors.astype(np.float64)
        said = vectors[np.any(vectors != 0.0, axis=1)]
        center = said.mean(axis=0) if len(said) else np.zeros(vectors.shape[1])
        axes = _axes(said - center, rank)
        features = outcomes.features
        known = outcomes.feature_set == FEATURE_SET
        block = np.zeros((0, 0)) if features is None else _quantities(features.astype(np.float64), known)
        mean, scale = _standard(block)
        tags = _frequent(features[:, TAG]) if features is not None and known else np.zeros(0, dtype=np.float32)
        member = np.zeros((0, 0)) if features is None else features[:, -1:] == tags[None, :]
        tag_mean, tag_scale = _standard(member.astype(np.float64))
        made = cls(
            axes=_f32(axes), shift=_f32(center @ axes), mean=_f32(mean), scale=_f32(scale),
            tags=tags, tag_mean=_f32(tag_mean), tag_scale=_f32(tag_scale),
            impute=np.zeros((axes.shape[1], 0), dtype=np.float32), known=known,
        )  # fmt: skip
        return made if features is None or not len(mean) else made._with_imputation(outcomes.vectors, features)

    def _with_imputation(self, vectors: F32, features: F32) -> Self:
        z = self._directions(vectors).astype(np.float64)
        gram = z.T @ z + (IMPUTE_STRENGTH * len(z) + 1.0) * np.eye(z.shape[1])
        return replace(self, impute=_f32(np.linalg.solve(gram, z.T @ self._block(features).astype(np.float64))))

    def transform(self, vectors: F32, features: F32 | None = None) -> F32:
        """`z` of one query ([d], [F] -> [P]) or of several ([n, d], [n, F] -> [n, P])."""
        z = self._directions(vectors)
        if self.impute.shape[1]:
            z = np.concatenate((z, z @ self.impute if features is None else self._block(features)), axis=-1)
        typical: F32 = z * vectors.any(axis=-1, keepdims=True)
        return typical

    def _directions(self, vectors: F32) -> F32:
        # `dot` of one vector is faster than `@`.
        z: F32 = vectors.dot(self.axes) - self.shift
        return z

    def _block(self, features: F32) -> F32:
        columns = _quantities(features, self.known)
        columns = np.maximum(np.minimum((columns - self.mean) * self.scale, CUT), -CUT)
        if len(self.tags):
            member = (features[..., -1:] == self.tags) - self.tag_mean
            columns = np.concatenate((columns, np.minimum(member * self.tag_scale, CUT)), axis=-1)
        block: F32 = columns
        return block

    def arrays(self, prefix: str = "inputs_") -> dict[str, NDArray[Any]]:
        """The arrays under names that begin with `prefix`."""
        names = [name for name in self.__slots__ if name != "known"]
        found = {prefix + name: getattr(self, name) for name in names}
        return found | {prefix + "known": np.array([self.known], dtype=np.uint8)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], prefix: str = "inputs_") -> Self:
        """The inverse of `arrays`; other names are left alone."""
        fields = {name: arrays[prefix + name] for name in cls.__slots__ if name != "known"}
        return cls(**fields, known=bool(arrays[prefix + "known"][0]))


def _axes(centered: NDArray[np.float64], rank: int | None) -> NDArray[np.float64]:
    """Scaled directions, [d, r]."""
    # Eigenvectors come by rising eigenvalue.
    whole = rank is None or rank >= centered.shape[1]
    axes = np.eye(centered.shape[1]) if whole else np.linalg.eigh(centered.T @ centered)[1][:, ::-1][:, :rank]
    variance = float(np.mean((centered @ axes) ** 2)) if len(centered) else 0.0
    return np.asarray(axes / np.sqrt(variance) if variance > 1e-12 else np.zeros_like(axes))


def _quantities(features: NDArray[Any], known: bool) -> NDArray[Any]:
    """The features and, of the known block, the number of characters in thousands in place of the tag's code."""
    if not known:
        return features
    chars = np.expm1(features[..., LOG_CHARS : LOG_CHARS + 1]) / 1000.0
    return np.concatenate((features[..., :TAG], chars.astype(features.dtype)), axis=-1)


def _standard(columns: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not len(columns):
        return np.zeros(0), np.zeros(0)
    std = columns.std(axis=0)
    return columns.mean(axis=0), np.where(std > MIN_STD, 1.0 / np.maximum(std, MIN_STD), 0.0)


def _frequent(codes: F32) -> F32:
    """The codes of the most frequent tags, rising; 0 is no tag."""
    found, counts = np.unique(codes[codes != 0.0], return_counts=True)
    enough = np.flatnonzero(counts >= TAG_ROWS)
    chosen = enough[np.argsort(-counts[enough], kind="stable")[:TAGS]]
    return np.sort(found[chosen]).astype(np.float32)


def _f32(array: NDArray[Any]) -> F32:
    return np.ascontiguousarray(array, dtype=np.float32)
