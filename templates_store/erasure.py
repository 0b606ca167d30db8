"""Erasing what came from a user, a key or a request: its templates go, and nothing is built of it again.

The text, the question and the vector of an erased template are removed from the file, its log and the index, not only
marked. What stays is the template's id (a digest), so that an old export cannot bring it back, and digests of what was
named, so that the next build passes it over although the traffic log may still hold it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from templates_store.store import TemplateStore
from traffic.log import TrafficLog
from traffic.records import Interaction


class Erased(msgspec.Struct, frozen=True):
    """Ids of the templates that are gone, and how many logged requests were looked up for them."""

    template_ids: tuple[str, ...]
    interactions: int


def erase(
    store: TemplateStore,
    *,
    user: str | None = None,
    key: str | None = None,
    interactions: Iterable[str] = (),
    log: TrafficLog | None = None,
    index_folder: Path | None = None,
) -> Erased:
    """Erase what was made from the requests of a user or of an API key (by its id), or from these requests.

    The requests of a user or key are looked up in `log`, so erase here before anything is erased there, or give the
    requests' ids. `index_folder` is that of the index beside the store; its files are removed and made anew by whoever
    serves. Reads the whole log: call it off the event loop.

    Raises
    ------
    ValueError: nothing is named, or a user without the log.
    TemplateStoreError: the store cannot be written; what was erased by then stays erased.
    """
    named = list(dict.fromkeys(interactions))
    if user is None and key is None and not named:
        raise ValueError("name a user, a key or a request whose templates are to be erased")
    if user is not None and log is None:
        raise ValueError("a user's requests are found in the traffic log; give the log, or the ids of the requests")
    marks = [_mark("interaction", id_) for id_ in named]
    marks += [_mark(kind, name) for kind, name in (("user", user), ("key", key)) if name is not None]
    found = list(named)
    if log is not None and (user is not None or key is not None):
        found += [
            logged.id
            for logged in log.read_interactions(content=False)
            if (user is not None and logged.user == user) or (key is not None and logged.key_id == key)
        ]
    ids = store.made_from(found)
    if key is not None:
        ids += [template.id for template in store.templates(tenant=key)]
    gone = store.erase(ids, marks)
    if gone and index_folder is not None:
        shutil.rmtree(index_folder, ignore_errors=True)
    return Erased(tuple(gone), len(found))


def erased_from(store: TemplateStore) -> Callable[[Interaction], bool]:
    """Tells whether nothing may be made of a logged request, because it or who sent it was erased since."""
    erasures = store.erasures()

    def erased(interaction: Interaction) -> bool:
        if not erasures:
            return False
        names = (("interaction", interaction.id), ("user", interaction.user), ("key", interaction.key_id))
        at = [erasures.get(_mark(kind, name)) for kind, name in names if name is not None]
        return any(when is not None and interaction.created_at <= when for when in at)

    return erased


def _mark(kind: str, name: str) -> str:
    digest = hashlib.sha256(f"{kind}\0{name}".encode()).hexdigest()
    return f"{kind}:{digest[:32]}"
