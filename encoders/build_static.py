"""Distil the static table from MiniLM: `python -m encoders.build_static [--out FOLDER]`.

Every token of the vocabulary goes through the model by itself; its mean-pooled output is reduced by PCA and weighted
by an estimate of how rare the token is. The method is model2vec's (Tulkens and van Dongen, 2024): the frequency of a
token is read off its rank in the vocabulary by Zipf's law, and its weight is that of SIF (Arora et al., 2017),
a / (a + p). Needs torch and transformers (the `torch` extra) and the package of `encoders.minilm`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors.numpy import save

from encoders.minilm import model_folder, vocabulary
from encoders.static import TABLE_FILE, TOKENS_FILE, WEIGHTS, digest_of

DIM = 256
SIF = 3e-4
"""The `a` of SIF: a token this frequent gets half the weight of a rare one."""
CLIP = 0.9999
"""Share of the table's entries that the int8 range covers; the largest few are clipped for the sake of the rest."""
BATCH = 512

Floats = NDArray[np.float32]


def kept_tokens(tokens: list[str]) -> list[int]:
    """Ids of the tokens that text can hold: neither special (`[CLS]`) nor reserved (`[unused7]`)."""
    return [i for i, token in enumerate(tokens) if not (len(token) > 1 and token[0] == "[" and token[-1] == "]")]


def token_outputs(folder: Path, ids: list[int]) -> Floats:
    """Float32 array of shape [len(ids), 384]: the mean output of `[CLS] token [SEP]`."""
    import torch
    from transformers import AutoModel

    torch.set_num_threads(1)
    model = AutoModel.from_pretrained(folder).eval()
    outputs = []
    with torch.inference_mode():
        for start in range(0, len(ids), BATCH):
            token = torch.tensor(ids[start : start + BATCH])
            framed = torch.stack([torch.full_like(token, 101), token, torch.full_like(token, 102)], dim=1)
            states = model(input_ids=framed, attention_mask=torch.ones_like(framed)).last_hidden_state
            outputs.append(states.mean(1).numpy())
    return np.concatenate(outputs)


def principal(rows: Floats, dim: int) -> Floats:
    """The rows in their first `dim` principal directions; signs fixed so that a rebuild gives the same table."""
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    _, directions = np.linalg.eigh(centred.T @ centred)
    directions = directions[:, ::-1][:, :dim]
    strongest = directions[np.abs(directions).argmax(0), np.arange(dim)]
    return np.asarray(centred @ (directions * np.sign(strongest)), np.float32)


def rarity(count: int) -> Floats:
    """Float32 array of shape [count, 1] in (0, 1): SIF weights of tokens that are sorted by falling frequency."""
    shares = 1.0 / np.arange(2, count + 2)
    shares /= shares.sum()
    return np.asarray((SIF / (SIF + shares))[:, None], np.float32)


def quantise(rows: Floats) -> NDArray[np.int8]:
    """Int8 rows on one common scale; the scale itself is not needed, since vectors are normalised."""
    step = float(np.quantile(np.abs(rows), CLIP)) / 127
    return np.asarray(np.clip(np.rint(rows / step), -127, 127), np.int8)


def build(out: Path) -> str:
    """Write the table and its tokens into `out`; the encoder's hash."""
    folder = model_folder()
    tokens = vocabulary(folder)
    ids = kept_tokens(tokens)
    table = quantise(principal(token_outputs(folder, ids), DIM) * rarity(len(ids)))
    weights = save({"table": table})
    spelling = orjson.dumps({"tokens": [tokens[i] for i in ids]})
    out.mkdir(parents=True, exist_ok=True)
    (out / TABLE_FILE).write_bytes(weights)
    (out / TOKENS_FILE).write_bytes(spelling)
    return digest_of(weights, spelling, DIM)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Distil the static encoder's table from MiniLM.")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder to write to (default: the shipped one)")
    arguments = parser.parse_args()
    sys.stdout.write("passing the vocabulary through MiniLM (about a minute)\n")
    sys.stdout.write(f"static encoder {build(arguments.out)} written to {arguments.out}\n")


if __name__ == "__main__":
    main()
