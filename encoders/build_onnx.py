"""Build MiniLM as an int8 ONNX graph in the cache folder: `python -m encoders.build_onnx [--out FOLDER]`.

The graph takes token ids and an attention mask and gives unit vectors: pooling and normalisation are inside. Weights
are quantised per channel to int8 (per tensor loses too much), activations when they are computed. Needs torch,
transformers and onnx (the `torch` extra) and the package of `encoders.minilm`.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import orjson

from encoders.minilm import model_folder, vocabulary
from encoders.onnx_files import MODEL_FILE, TOKENS_FILE, default_folder

OPSET = 17


def _pooled_model(folder: Path) -> Any:
    """MiniLM as a module from (ids, mask) to unit vectors: the mean of the outputs under the mask."""
    import torch
    from transformers import AutoModel

    class Pooled(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(folder, attn_implementation="eager")

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(states.dtype)
            mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1.0)
            return torch.nn.functional.normalize(mean, dim=1)

    return Pooled().eval()


def export_float(folder: Path, path: Path) -> None:
    """Write the float32 graph of the packaged model to `path`; any batch size and length."""
    import torch

    torch.set_num_threads(1)
    ids = torch.tensor([[101, 7592, 2088, 102], [101, 7592, 102, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    free = {0: "batch", 1: "tokens"}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of constants that do not depend on the input
        torch.onnx.export(
            _pooled_model(folder),
            (ids, mask),
            str(path),
            input_names=["input_ids", "attention_mask"],
            output_names=["vectors"],
            dynamic_axes={"input_ids": free, "attention_mask": free, "vectors": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )


def quantise(source: Path, target: Path) -> None:
    """Write the graph at `source` to `target` with int8 weights, one scale per output channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it advises a pre-processing step that changes nothing here
    quantize_dynamic(str(source), str(target), per_channel=True, weight_type=QuantType.QInt8)


def build(out: Path) -> Path:
    """Write the graph and its tokens into `out`, each in one step; the folder.

    Raises
    ------
    EncoderUnavailable: the packaged weights are missing or not the published ones.
    """
    folder = model_folder()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        work = Path(scratch)
        export_float(folder, work / "float.onnx")
        quantise(work / "float.onnx", work / MODEL_FILE)
        (work / TOKENS_FILE).write_bytes(orjson.dumps({"tokens": vocabulary(folder)}))
        for name in (TOKENS_FILE, MODEL_FILE):
            shutil.move(work / name, out / name)
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Build MiniLM as an int8 ONNX graph.")
    parser.add_argument("--out", type=Path, default=default_folder(), help="folder to write to (default: the cache)")
    arguments = parser.parse_args()
    sys.stdout.write("exporting MiniLM and quantising it (about half a minute)\n")
    sys.stdout.write(f"ONNX encoder written to {build(arguments.out)}\n")


if __name__ == "__main__":
    main()
