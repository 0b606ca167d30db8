"""MiniLM on ONNX Runtime, int8: milliseconds per text, no torch. Built by `encoders.build_onnx`, not shipped.

Texts run one at a time. The graph measures the range of its activations over all that it is given at once, so a text
run beside others would get a vector that depends on its neighbours, and padding costs more than a call does.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from encoders.minilm import MAX_TOKENS
from encoders.onnx_files import BUILD_COMMAND, MODEL_FILE, TOKENS_FILE, default_folder
from encoders.protocol import EncoderUnavailable, Vectors
from encoders.wordpiece import PREPROCESSING, WordPiece

MAX_CHARS = 16_000
"""A longer text is cut here before it is segmented; the model itself reads 256 tokens."""


class OnnxEncoder:
    """A graph from token ids and a mask to unit vectors; see `encoders.protocol.Encoder`."""

    name = "onnx"
    inline = False

    def __init__(self, session: Any, tokens: Sequence[str], digest: str) -> None:
        """`session`: an onnxruntime session of the graph; `tokens`: the spelling of each id of its vocabulary."""
        self._run = session.run
        self._rows = WordPiece(tokens, tokens.index("[UNK]")).rows
        self._first, self._last = tokens.index("[CLS]"), tokens.index("[SEP]")
        self.hash = digest
        self.dim = int(session.get_outputs()[0].shape[1])

    @classmethod
    def load(cls, folder: Path | None = None, threads: int = 1) -> OnnxEncoder:
        """Read the graph and its tokens; `threads` is what one text may use.

        Raises
        ------
        EncoderUnavailable: ONNX Runtime is not installed, or the files are missing or damaged; names the command.
        """
        folder = folder or default_folder()
        try:
            import onnxruntime
            from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf
        except ImportError as error:
            raise EncoderUnavailable(f"the onnx encoder needs {error.name}; run `pip install tokamak[onnx]`") from error
        try:
            graph, spelling = (folder / MODEL_FILE).read_bytes(), (folder / TOKENS_FILE).read_bytes()
        except OSError as error:
            raise EncoderUnavailable(
                f"the onnx encoder expects {MODEL_FILE} and {TOKENS_FILE} in {folder}: {error}. "
                f"Build them with `{BUILD_COMMAND}`."
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        digest = sha256(graph)
        digest.update(spelling)
        digest.update(f"onnx:{PREPROCESSING}:{MAX_CHARS}:{MAX_TOKENS}".encode())
        try:
            session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            return cls(session, orjson.loads(spelling)["tokens"], digest.hexdigest()[:16])
        except (Fail, InvalidGraph, InvalidProtobuf, KeyError, TypeError, ValueError) as error:
            raise EncoderUnavailable(
                f"the onnx encoder's files in {folder} are damaged: {error}. Build them with `{BUILD_COMMAND}`."
            ) from error

    def token_ids(self, text: str) -> list[int]:
        """What the model reads: the frame of `[CLS]` and `[SEP]` around the first tokens, at most 256 in all."""
        ids = [row for chunk in text[:MAX_CHARS].lower().split() for row in self._rows(chunk)]
        return [self._first, *ids[: MAX_TOKENS - 2], self._last]

    def encode_one(self, text: str) -> Vectors:
        """Float32 array of shape [dim] and unit norm; zero for a text of white space."""
        if not text or text.isspace():
            return np.zeros(self.dim, np.float32)
        ids = np.array([self.token_ids(text)], np.int64)
        vector: Vectors = self._run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0]
        return vector

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Float32 array of shape [len(texts), dim]: `encode_one` of each text."""
        vectors = np.empty((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self.encode_one(text)
        return vectors
