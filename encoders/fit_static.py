"""The second half of the static table's distillation: fit its rows to MiniLM on real queries.

A table distilled token by token knows what a token means alone. Here its rows are moved until the sum over a text
points where MiniLM's vector of the whole text points; scores and labels are never looked at. The idea is Tokenlearn's
(Tulkens and van Dongen, 2024), done in one step: the loss is one minus the cosine itself. Only rows that occur move.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.protocol import Encoder, Vectors

Floats = NDArray[np.float32]

HEAD_WORDS = 120
"""MiniLM reads 256 tokens; a window stays well within them, so that both encoders see the same text."""
WINDOW_WORDS = (8, 40)
"""Shorter windows are cut out of long texts, so that the table learns from short texts as well."""
EPOCHS = 4
BATCH = 256
STEP = 0.02
SEED = 0


def read_texts(paths: Iterable[Path]) -> list[str]:
    """The distinct texts of Parquet files (column `query`) and of plain files (one text per line), in order.

    Raises
    ------
    ValueError: there is no text in them.
    """
    texts: dict[str, None] = {}
    for path in paths:
        if path.suffix == ".parquet":
            import pyarrow.parquet as parquet

            found = parquet.read_table(path, columns=["query"])["query"].to_pylist()
        else:
            found = path.read_text(encoding="utf-8").splitlines()
        texts.update(dict.fromkeys(text for text in found if text and text.strip()))
    if not texts:
        raise ValueError("expected Parquet files with a column `query`, or text files; found no text in them")
    return list(texts)


def windows(texts: Sequence[str]) -> list[str]:
    """The beginning of each text and, from longer ones, one or two random windows; shuffled, the seed fixed."""
    random = np.random.default_rng(SEED)
    cut: dict[str, None] = {}
    for text in texts:
        words = text.split(" ")
        cut[" ".join(words[:HEAD_WORDS])] = None
        for _ in range(2 if len(words) > 60 else 1 if len(words) > 24 else 0):
            length = int(random.integers(*WINDOW_WORDS))
            start = int(random.integers(0, max(1, len(words) - length)))
            cut[" ".join(words[start : start + length])] = None
    kept = [text for text in cut if text.strip()]
    return [kept[i] for i in random.permutation(len(kept))]


def teach(teacher: Encoder, texts: Sequence[str], folder: Path | None) -> Vectors:
    """The teacher's vectors of the texts; kept in `folder`, if given, for another run over the same texts."""
    path = folder / f"teacher-{teacher.hash}-{len(texts)}.npy" if folder else None
    if path is not None and path.exists():
        vectors: Vectors = np.load(path, allow_pickle=False)
        return vectors
    vectors = teacher.encode(texts)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, vectors, allow_pickle=False)
    return vectors


def fit(table: Floats, rows: Sequence[Sequence[int]], targets: Floats) -> tuple[Floats, float]:
    """The fitted table and the mean cosine on a held-out twentieth of the texts.

    Parameters
    ----------
    table: float32 array of shape [tokens, dim], the start.
    rows: for each text the rows of its tokens; texts without any are left out.
    targets: float32 array of shape [texts, dim], unit rows.
    """
    import torch

    torch.manual_seed(SEED)
    used = np.array([i for i, found in enumerate(rows) if found])
    held, learnt = np.split(used, [len(used) // 20])
    present = np.unique(np.concatenate([np.asarray(rows[i]) for i in used]))
    place = np.zeros(len(table), np.int64)
    place[present] = np.arange(len(present))
    bags = torch.nn.EmbeddingBag.from_pretrained(torch.tensor(table[present]), freeze=False, mode="sum", sparse=True)
    goal = torch.tensor(targets)

    def cosines(chosen: NDArray[np.int64]) -> torch.Tensor:
        starts = np.cumsum([0, *(len(rows[i]) for i in chosen[:-1])])
        tokens = place[np.concatenate([np.asarray(rows[i]) for i in chosen])]
        sums = bags(torch.tensor(tokens), torch.tensor(starts))
        return torch.nn.functional.cosine_similarity(sums, goal[chosen])

    optimiser = torch.optim.SparseAdam(list(bags.parameters()), lr=STEP)
    random = np.random.default_rng(SEED)
    batches = max(1, len(learnt) // BATCH)
    for epoch in range(EPOCHS):
        for number, chosen in enumerate(np.array_split(random.permutation(learnt), batches)):
            optimiser.param_groups[0]["lr"] = STEP * (1 - (epoch * batches + number) / (EPOCHS * batches))
            optimiser.zero_grad()
            (1 - cosines(chosen)).mean().backward()
            optimiser.step()
    fitted = table.copy()
    fitted[present] = bags.weight.detach().numpy()
    with torch.inference_mode():
        return fitted, float(cosines(held).mean())
