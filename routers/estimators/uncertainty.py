"""The standard error of predicted mean qualities, for routers that are regressions on `z` (`routers.inputs`).

    variance(q, m) = noise_m / (n_m + 1)  +  noise_m * sum_k (u_k z)^2 / (n_m l_k + strength)

where u_k, l_k are the principal directions and variances of `z` over the training queries, n_m the effective number of
the arm's observations and `strength` the ridge strength: the posterior variance of a ridge regression whose rows were
observed at random. For routers that are not linear in `z` it is an approximation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routers.estimators.least_squares import F64
from routers.estimators.shrinkage import ARM_STRENGTH, NOISE_GUESS, shrunk
from routers.protocol import F32

DIRECTIONS = 32
MIN_NOISE = 1e-4


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """`axes` float32 [P, K]; `spread` [K] the variances along them; `noise`, `count` float32 [M]; `strength` > 0."""

    axes: F32
    spread: F32
    noise: F32
    count: F32
    strength: float
    _table: F32 = field(init=False, repr=False, compare=False)
    _floor: F32 = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        table = self.noise / (np.multiply.outer(self.spread, self.count) + np.float32(self.strength))
        object.__setattr__(self, "_table", table)
        object.__setattr__(self, "_floor", self.noise / (self.count + np.float32(1.0)))

    @classmethod
    def learned(cls, z: F64, noise: F64, count: F64, strength: float) -> Self:
        """From the training `z` [N, P], the variance of one score about its prediction [M], and effective counts."""
        variances, axes = np.linalg.eigh(z.T @ z / max(len(z), 1))
        axes, variances = axes[:, ::-1][:, :DIRECTIONS], np.maximum(variances[::-1][:DIRECTIONS], 0.0)
        return cls(_f32(axes), _f32(variances), _f32(noise), _f32(count), strength)

    def std(self, z: F32) -> F32:
        """Float32 [M] for `z` [P], [n, M] for [n, P]."""
        along = z.dot(self.axes)
        std: F32 = np.sqrt((along * along).dot(self._table) + self._floor)
        return std

    def arrays(self, prefix: str = "uncertainty_") -> dict[str, NDArray[Any]]:
        """The arrays under names that begin with `prefix`."""
        own = {"axes": self.axes, "spread": self.spread, "noise": self.noise, "count": self.count}
        return {prefix + name: array for name, array in own.items()} | {prefix + "strength": np.array([self.strength])}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], prefix: str = "uncertainty_") -> Self:
        """The inverse of `arrays`; other names are left alone."""
        fields = {name: arrays[prefix + name] for name in ("axes", "spread", "noise", "count")}
        return cls(**fields, strength=float(arrays[prefix + "strength"][0]))


def noise_of(residual: F64, weights: F64) -> F64:
    """Variance of a score about its prediction, per arm, [M], drawn toward the pool's. NaN where the weight is 0."""
    squares = np.where(weights > 0, weights * np.nan_to_num(residual) ** 2, 0.0).sum(axis=0)
    count = weights.sum(axis=0)
    pooled = shrunk(squares.sum() / max(count.sum(), 1e-12), count.sum(), NOISE_GUESS, 1.0)
    own = squares / np.where(count > 0, count, 1.0)
    return np.maximum(shrunk(own, count, float(pooled), ARM_STRENGTH), MIN_NOISE)


def _f32(array: NDArray[Any]) -> F32:
    return np.ascontiguousarray(array, dtype=np.float32)
