"""Where the ONNX encoder's files lie: names and folder, shared by its builder and its reader."""

from __future__ import annotations

import os
from pathlib import Path

MODEL_FILE = "model.onnx"
TOKENS_FILE = "tokens.json"
BUILD_COMMAND = "python -m encoders.build_onnx"
CACHE_VARIABLE = "TOKAMAK_CACHE"


def default_folder() -> Path:
    """`$TOKAMAK_CACHE/minilm-int8`, or the same below `~/.cache/tokamak`."""
    root = os.environ.get(CACHE_VARIABLE)
    return (Path(root) if root else Path.home() / ".cache" / "tokamak") / "minilm-int8"
