"""The encoders by name. A new encoder is one file and one line here."""

from __future__ import annotations

from encoders.protocol import Encoder

SENTENCE_PREFIX = "st:"


def load_encoder(name: str) -> Encoder:
    """The encoder of that name: `static` (the default), `onnx`, or `st:<path or model name>` (sentence-transformers).

    An encoder's own dependencies are imported only when it is asked for.

    Raises
    ------
    EncoderUnavailable: the name is known but its extra is not installed or its weights are missing; says what to do.
    ValueError: no encoder has this name.
    """
    if name == "static":
        from encoders.static import StaticEncoder

        return StaticEncoder.load()
    if name == "onnx":
        from encoders.onnx import OnnxEncoder

        return OnnxEncoder.load()
    if name.startswith(SENTENCE_PREFIX) and len(name) > len(SENTENCE_PREFIX):
        from encoders.sentence import SentenceEncoder

        return SentenceEncoder.load(name.removeprefix(SENTENCE_PREFIX))
    raise ValueError(f"no encoder is called {name!r}; expected static, onnx, st:minilm or st:<path or model name>")
