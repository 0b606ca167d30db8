"""Distil the static table from MiniLM: `python -m encoders.build_static --texts FILE... [--out FOLDER]`.

Every token of the vocabulary goes through the model by itself; its mean-pooled output is centred, projected to fewer
dimensions and weighted by how rare the token is. That much is model2vec's method (Tulkens and van Dongen, 2024) with
the weights of SIF (Arora et al., 2017), a / (a + p). Where texts are given, they tell the frequencies and the centre,
and the rows are then fitted to MiniLM's vectors of whole texts (`encoders.fit_static`); without, Zipf's law over the
rank in the vocabulary stands in for the frequencies. Needs the `torch` extra, the package of `encoders.minilm`, and
for texts the `onnx` encoder as the teacher. What the shipped table was made from: `weights/SOURCE.md`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors.numpy import save

from encoders.catalogue import load_encoder
from encoders.fit_static import Floats, fit, read_texts, teach, windows
from encoders.minilm import model_folder, vocabulary
from encoders.static import TABLE_FILE, TOKENS_FILE, WEIGHTS, digest_of
from encoders.wordpiece import WordPiece

DIM = 256
SIF = 1e-3
"""The `a` of SIF: a token this frequent gets half the weight of a rare one."""
CLIP = 0.9999
"""Share of the table's entries that the int8 range covers; the largest few are clipped for the sake of the rest."""
BATCH = 512


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


def directions(rows: Floats, dim: int) -> Floats:
    """Float32 array of shape [384, dim]: the strongest directions of centred rows, signs fixed for a rebuild."""
    exact = rows.astype(np.float64)
    _, found = np.linalg.eigh(exact.T @ exact)
    found = found[:, ::-1][:, :dim]
    strongest = found[np.abs(found).argmax(0), np.arange(dim)]
    return np.asarray(found * np.sign(strongest), np.float32)


def rarity(shares: NDArray[np.float64]) -> Floats:
    """Float32 array of shape [tokens, 1] in (0, 1): SIF weights of tokens that make up these shares of text."""
    return np.asarray((SIF / (SIF + shares / shares.sum()))[:, None], np.float32)


def unit(rows: Floats) -> Floats:
    """The rows scaled to length one; zero rows stay zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0), np.float32)


def from_tokens(outputs: Floats) -> Floats:
    """The table, float32 of shape [tokens, DIM], of tokens alone; they are sorted by falling frequency."""
    centred = outputs - outputs.mean(0)
    shares = 1.0 / np.arange(2, len(outputs) + 2, dtype=np.float64)
    return np.asarray(centred @ directions(centred, DIM) * rarity(shares), np.float32)


def from_texts(outputs: Floats, tokens: list[str], texts: list[str], keep: Path | None) -> tuple[Floats, float]:
    """The table fitted to MiniLM on texts, and the cosine between the two on texts that were held out."""
    spell = WordPiece(tokens).rows
    cut = windows(texts)
    taught = teach(load_encoder("onnx"), cut, keep)
    rows = [[row for chunk in text.lower().split() for row in spell(chunk)] for text in cut]
    met = np.concatenate([np.asarray(found, np.int64) for found in rows])
    counts: NDArray[np.float64] = np.bincount(met, minlength=len(tokens)).astype(np.float64) + 0.5
    centre = taught.mean(0)
    projection = directions(taught - centre, DIM)
    alone = (outputs - np.average(outputs, axis=0, weights=counts).astype(np.float32)) @ projection
    alone /= np.sqrt(np.square(alone).sum(1).mean())
    return fit(alone * rarity(counts), rows, unit((taught - centre) @ projection))


def quantise(rows: Floats) -> NDArray[np.int8]:
    """Int8 rows on one common scale; the scale itself is not needed, since vectors are normalised."""
    step = float(np.quantile(np.abs(rows), CLIP)) / 127
    return np.asarray(np.clip(np.rint(rows / step), -127, 127), np.int8)


def build(out: Path, texts: list[str], keep: Path | None = None) -> str:
    """Write the table and its tokens into `out`; a line that says what was made.

    `keep`: a folder for the teacher's vectors, so that a second run over the same texts is short.
    """
    folder = model_folder()
    spellings = vocabulary(folder)
    ids = kept_tokens(spellings)
    tokens = [spellings[i] for i in ids]
    outputs = token_outputs(folder, ids)
    note = "from tokens alone"
    if texts:
        table, cosine = from_texts(outputs, tokens, texts, keep)
        note = f"fitted on {len(texts)} texts, held-out cosine to MiniLM {cosine:.4f}"
    else:
        table = from_tokens(outputs)
    weights = save({"table": quantise(table)})
    spelling = orjson.dumps({"tokens": tokens})
    out.mkdir(parents=True, exist_ok=True)
    (out / TABLE_FILE).write_bytes(weights)
    (out / TOKENS_FILE).write_bytes(spelling)
    return f"static encoder {digest_of(weights, spelling, DIM)} {note}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Distil the static encoder's table from MiniLM.")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder to write to (default: the shipped one)")
    parser.add_argument("--texts", type=Path, nargs="*", default=[], help="Parquet (column query) or text files")
    parser.add_argument("--without", type=Path, nargs="*", default=[], help="leave out what occurs in these files")
    parser.add_argument("--keep", type=Path, help="folder that keeps the teacher's vectors between runs")
    arguments = parser.parse_args()
    unwanted = set(read_texts(arguments.without)) if arguments.without else set()
    texts = [text for text in read_texts(arguments.texts) if text not in unwanted] if arguments.texts else []
    sys.stdout.write(f"passing the vocabulary and {len(texts)} texts through MiniLM (one to ten minutes)\n")
    sys.stdout.write(f"{build(arguments.out, texts, arguments.keep)}, written to {arguments.out}\n")


if __name__ == "__main__":
    main()
