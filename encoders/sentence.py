"""Any sentence-transformers model, by path or name: `st:minilm` is the packaged MiniLM and needs no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np

from encoders.minilm import model_folder
from encoders.protocol import EncoderUnavailable, Vectors

PREPROCESSING = "1"
"""Raise it when the same text may give other tokens."""
PACKAGED = "minilm"
BATCH = 32


class SentenceEncoder:
    """A sentence-transformers model; rows of a batch agree with single texts to float32 rounding."""

    inline = False

    def __init__(self, name: str, model: Any) -> None:
        """`name`: what is configured after `st:`; `model`: a loaded `SentenceTransformer`."""
        self.name = f"st:{name}"
        self.dim = int(model.get_embedding_dimension())
        self.hash = _digest(model, self.dim)
        self._model = model

    @classmethod
    def load(cls, name: str) -> SentenceEncoder:
        """Load `minilm` from its package, anything else as sentence-transformers finds it.

        Raises
        ------
        EncoderUnavailable: the library or the model is not there; says what to do.
        """
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise EncoderUnavailable(
                f"the encoder st:{name} needs {error.name}; run `pip install torch==2.13.0`, then "
                "`pip install tokamak[torch]`"
            ) from error
        source = str(model_folder()) if name == PACKAGED else name
        try:
            return cls(name, SentenceTransformer(source))
        except (OSError, ValueError) as error:
            raise EncoderUnavailable(
                f"sentence-transformers cannot load {name!r}: {error}. Give the folder of a model, or st:{PACKAGED}."
            ) from error

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Float32 array of shape [len(texts), dim], rows of unit norm; zero for texts of white space."""
        vectors = np.zeros((len(texts), self.dim), np.float32)
        full = [row for row, text in enumerate(texts) if text and not text.isspace()]
        if full:
            readable = [texts[row].encode("utf-8", "replace").decode() for row in full]
            vectors[full] = self._model.encode(
                readable, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
            )
        return vectors

    def encode_one(self, text: str) -> Vectors:
        """Float32 array of shape [dim]; equal to `encode([text])[0]`."""
        vector: Vectors = self.encode([text])[0]
        return vector


def _digest(model: Any, dim: int) -> str:
    digest = sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    digest.update(model.tokenizer.backend_tokenizer.to_str().encode())
    stages = [(type(stage).__name__, stage.get_config_dict()) for stage in model]
    digest.update(json.dumps(stages, sort_keys=True, default=str).encode())
    digest.update(f"st:{PREPROCESSING}:{model.max_seq_length}:{dim}".encode())
    return digest.hexdigest()[:16]
