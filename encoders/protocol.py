"""The contract of every encoder, and the one function that finds an encoder by name.

An encoder is identified by `hash`: a digest of its weights, tokenizer, preprocessing and dimension. Every artifact that
holds vectors (a router, a template index) records this hash and refuses to load beside another encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class Encoder(Protocol):
    """Text to unit vectors.

    Attributes
    ----------
    name: the name it is configured by, for example `static`.
    hash: 16 hex digits, see the module docstring.
    dim: length of a vector.
    inline: True if one text takes well under a millisecond, so that the event loop may call `encode_one` itself;
        otherwise callers go through `encoders.batching.BatchingEncoder`.
    """

    name: str
    hash: str
    dim: int
    inline: bool

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Float32 array of shape [len(texts), dim], rows of unit norm (an empty text gives the zero vector)."""

    def encode_one(self, text: str) -> Vectors:
        """Float32 array of shape [dim]; equal to `encode([text])[0]`."""


class EncoderUnavailable(RuntimeError):
    """The encoder is known but cannot be loaded here. The message says which command makes it available."""
