"""A BERT encoder in NumPy: token rows to one vector per text, without torch. Padding never changes a text's vector.

    x = norm(token + position),    per layer  x = norm(x + attention(x)),  x = norm(x + down(gelu(up(x)))),
    pooled = tanh(dense(mean of x over the text's tokens))

Architecture: Devlin et al., 2019; the mean over tokens is that of sentence-transformers. The attention mask is part of
the forward pass here (the released CARROT router leaves it out, so a neighbour in the batch changes its decision).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from routers.protocol import F32

EPSILON = 1e-12
LAYER = ("qkv", "qkv_bias", "out", "out_bias", "norm1", "norm1_bias", "up", "up_bias", "down", "down_bias", "norm2",
         "norm2_bias")  # fmt: skip
"""Arrays of a layer: [D, 3 D], [D, D], [D], [D, F], [F, D] and [D], each with its bias."""
OUTER = ("token", "position", "norm", "norm_bias", "pool", "pool_bias")
"""Arrays beside the layers: [V, D], [T, D], [D], [D], [D, H], [H]."""


class Shape(NamedTuple):
    """Sizes of an encoder: `width` D, `inner` F, `heads` of attention, `layers`, longest input, pooled width H."""

    layers: int
    width: int
    heads: int
    inner: int
    longest: int
    pooled: int


def fresh_encoder(shape: Shape, token: F32, rng: np.random.Generator) -> dict[str, F32]:
    """Initial arrays of an encoder whose token rows are `token` [V, D]."""

    def matrix(rows: int, columns: int) -> F32:
        return rng.normal(0.0, 0.7 / np.sqrt(rows), (rows, columns)).astype(np.float32)

    def zeros(size: int) -> F32:
        return np.zeros(size, dtype=np.float32)

    d, f = shape.width, shape.inner
    arrays = {
        "token": token,
        "position": rng.normal(0.0, 0.02, (shape.longest, d)).astype(np.float32),
        "norm": zeros(d) + 1.0,
        "norm_bias": zeros(d),
        "pool": matrix(d, shape.pooled),
        "pool_bias": zeros(shape.pooled),
    }
    for layer in range(shape.layers):
        fresh = (matrix(d, 3 * d), zeros(3 * d), matrix(d, d), zeros(d), zeros(d) + 1.0, zeros(d),
                 matrix(d, f), zeros(f), matrix(f, d), zeros(d), zeros(d) + 1.0, zeros(d))  # fmt: skip
        arrays |= {f"layer{layer}_{name}": array for name, array in zip(LAYER, fresh, strict=True)}
    return arrays


def encoded(arrays: Mapping[str, F32], shape: Shape, ids: NDArray[np.int64], mask: NDArray[np.bool_]) -> F32:
    """Pooled vectors [n, H] of token rows [n, T], of which those under the mask are text."""
    x = arrays["token"][ids] + arrays["position"][: ids.shape[1]]
    x = _norm(x, arrays["norm"], arrays["norm_bias"])
    for layer in range(shape.layers):
        own = {name: arrays[f"layer{layer}_{name}"] for name in LAYER}
        x = _norm(x + _attention(x, own, mask, shape.heads), own["norm1"], own["norm1_bias"])
        inner = _gelu(x @ own["up"] + own["up_bias"])
        x = _norm(x + (inner @ own["down"] + own["down_bias"]), own["norm2"], own["norm2_bias"])
    share = (mask / mask.sum(axis=1, keepdims=True)).astype(np.float32)
    mean = np.einsum("nt,ntd->nd", share, x)
    pooled: F32 = np.tanh(mean @ arrays["pool"] + arrays["pool_bias"])
    return pooled


def _attention(x: F32, own: Mapping[str, F32], mask: NDArray[np.bool_], heads: int) -> F32:
    n, length, width = x.shape
    size = width // heads
    mixed = (x @ own["qkv"] + own["qkv_bias"]).reshape(n, length, 3, heads, size).transpose(2, 0, 3, 1, 4)
    query, key, value = mixed
    scores = (query * np.float32(size**-0.5)) @ key.transpose(0, 1, 3, 2)
    scores = np.where(mask[:, None, None, :], scores, np.float32(-1e30))
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    found = (scores @ value).transpose(0, 2, 1, 3).reshape(n, length, width)
    attended: F32 = found @ own["out"] + own["out_bias"]
    return attended


def _norm(x: F32, gain: F32, bias: F32) -> F32:
    x = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(x).mean(axis=-1, keepdims=True)
    x /= np.sqrt(variance + np.float32(EPSILON))
    normed: F32 = x * gain + bias
    return normed


def _gelu(x: F32) -> F32:
    """x Phi(x), exact to 2e-7: the error function by Abramowitz and Stegun, 7.1.26."""
    z = np.abs(x) * np.float32(0.5**0.5)
    t = 1.0 / (1.0 + np.float32(0.3275911) * z)
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail = 0.5 * poly * np.exp(-z * z)
    gelu: F32 = (x * np.where(x >= 0, 1.0 - tail, tail)).astype(np.float32)
    return gelu


def arrays_of(arrays: Mapping[str, NDArray[Any]], shape: Shape) -> dict[str, F32]:
    """The arrays of an encoder of this shape, out of a router's."""
    names = [*OUTER, *(f"layer{layer}_{name}" for layer in range(shape.layers) for name in LAYER)]
    return {name: arrays[f"text_{name}"] for name in names}
