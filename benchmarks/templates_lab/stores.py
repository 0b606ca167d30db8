"""Stores of any size for the benchmark, with real templates' texts and the vectors of real and recombined questions."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from encoders.protocol import Vectors
from templates_store.create import template_id
from templates_store.database import TemplateStoreError
from templates_store.index_files import INDEX_FOLDER, read_index, write_index
from templates_store.live_index import LiveIndex, block_of_records
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
    """Write the store and its index; a folder that has them is used as it is, and one that has a part is completed.

    The texts come from templates that were checked when they were built, and the check is not what is measured here:
    records are written without doing it again.
    """
    with TemplateStore(folder / STORE_FILE) as store:
        # Each template is one version, so the version says how many of them an interrupted run has left.
        for start in range(store.version(), len(vectors), _GROUP):
            entries = []
            for i in range(start, min(start + _GROUP, len(vectors))):
                text, query = texts[i % len(texts)], f"{questions[i % len(questions)][:400]} ({i})"
                template = Template(
                    id=template_id(query, text), query=query, text=text, vector=vectors[i].tobytes(), encoder=encoder,
                    created_at=0.0, builder="benchmark", tenant=tenant_of(i),
                )  # fmt: skip
                entries.append(Entry(template.id, "added", None, 0.0, template))
            store._write(_plan(entries))
        version = store.version()
        mark = store.mark(version)
        try:
            if read_index(folder / INDEX_FOLDER, encoder).mark == mark:
                return Filled(folder, encoder)
        except TemplateStoreError:
            pass  # There is none yet, or one of an older layout.
        write_index(folder / INDEX_FOLDER, block_of_records(store, encoder), encoder, version, mark, 0)
    return Filled(folder, encoder)


def _plan(entries: list[Entry]) -> Callable[[sqlite3.Connection], list[Entry]]:
    return lambda _: entries
