"""Opens the template store that is configured: a file in the data folder, or one that replicas share."""

from __future__ import annotations

from pathlib import Path

from templates_store.store import STORE_FILE, TemplateStore

SHARED_FILE = "templates-shared.db"
"""Name of the copy of a shared store inside the data folder. Disposable: it is read from Redis again."""


def open_store(data_dir: Path, url: str | None = None, *, follow: bool = False) -> TemplateStore:
    """The store in the data folder, or with a `url` (`redis://...`) the one in that Redis.

    With `follow` a thread keeps the copy of a shared store in step; without, it is when the store is opened or written.

    Raises
    ------
    TemplateStoreError: the store cannot be used. A Redis that is away is one too, unless there is a copy to go on with.
    """
    if url is None:
        return TemplateStore(data_dir / STORE_FILE)
    from templates_store.shared_store import SharedTemplateStore

    return SharedTemplateStore(url, data_dir / SHARED_FILE, follow=follow)
