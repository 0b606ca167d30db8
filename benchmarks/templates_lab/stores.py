"""Stores of any size for the benchmark, with real templates' texts and the vectors of real and recombined questions."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from encoders.protocol import Vectors
from templates_store.block import Group, build_block
from templates_store.create import template_id
from templates_store.index_files import INDEX_FOLDER, write_index
from templates_store.live_index import LiveIndex
from templates_store.store import STORE_FILE, Entry, TemplateStore
from templates_store.template import Template

_GROUP = 5_000


class Filled:
    """A store in a folder with one template for each row of vectors, and its index files."""

    def __init__(self, folder: Path, encoder: str) -> None:
        self.folder = folder
        self.encoder = encoder

    @contextmanager
    def opened(self) -> Iterator[LiveIndex]:
        """The index as a gateway has it."""
        with TemplateStore(self.folder / STORE_FILE) as store:
            live = LiveIndex(store, self.encoder, self.folder / INDEX_FOLDER)
            yield live
            live.close()


def filled(
    folder: Path,
    vectors: Vectors,
    texts: Sequence[str],
    questions: Sequence[str],
    encoder: str,
    tenant_of: Callable[[int], str | None] = lambda _: None,
) -> Filled:
    """Write the store and its index; a folder that has them is used as it is.

    The texts come from templates that were checked when they were built, and the check is not what is measured here:
    records are written without doing it again.
    """
    made = Filled(folder, encoder)
    if (folder / INDEX_FOLDER / "current.json").is_file():
        return made
    ids = np.empty(len(vectors), np.uint64)
    with TemplateStore(folder / STORE_FILE) as store:
        for start in range(0, len(vectors), _GROUP):
            stop = min(start + _GROUP, len(vectors))
            entries = []
            for i in range(start, stop):
                text, query = texts[i % len(texts)], f"{questions[i % len(questions)][:400]} ({i})"
                template = Template(
                    id=template_id(query, text), query=query, text=text, vector=vectors[i].tobytes(), encoder=encoder,
                    created_at=0.0, builder="benchmark", tenant=tenant_of(i),
                )  # fmt: skip
                ids[i] = int(template.id, 16)
                entries.append(Entry(template.id, "added", None, 0.0, template))
            store._write(_plan(entries))
        owners = [tenant_of(i) for i in range(len(vectors))]
        rows: dict[str | None, list[int]] = {}
        for i, owner in enumerate(owners):
            rows.setdefault(owner, []).append(i)
        groups = {owner: Group(ids[own], vectors[own]) for owner, own in rows.items()}
        block = build_block(groups, vectors.shape[1])
        version = store.version()
        write_index(folder / INDEX_FOLDER, block, encoder, version, store.mark(version), 0)
    return made


def _plan(entries: list[Entry]) -> Callable[[sqlite3.Connection], list[Entry]]:
    return lambda _: entries
