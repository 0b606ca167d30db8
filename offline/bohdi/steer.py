"""Traffic steers the tree without leaking into it: logged queries are counted at leaves, by their vectors alone.

A query's text is never read: the log is read without content. What comes out are counts by node, and nothing else of a
query goes into the tree's log. So no prompt, no name of a domain and no training example can hold a user's words.

A node is where the questions that were made up for it are: the mean of their vectors and of its name's. A query belongs
to the nearest leaf if it is as near to it as the leaf's own questions are (all but the farthest 5 %); if it is not, it
is unmatched at the nearest node above of which that is true, and at the root in the end: there the tree should sprout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from encoders.protocol import Encoder, Vectors
from offline.bohdi.events import ROOT, AnyEvent, Contested, TrafficMapped
from offline.bohdi.tree import Tree
from traffic.log import TrafficLog
from traffic.records import Interaction

OWN: Final = 0.05
"""Part of a node's own questions that is farther from it than what counts as near."""
LEAST_OWN: Final = 20
"""Questions of a level, of nodes with at least two, from which its floor is taken; with fewer it is `FLOOR`."""
FLOOR: Final = 0.3
QUESTIONS: Final = 200
"""Newest questions of a leaf that say where it is, at most."""
_BATCH: Final = 4096

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Mapped:
    """What was mapped. `read`: interactions that were looked at; `left_out`: those that were not mapped, by reason."""

    event: TrafficMapped
    read: int
    left_out: dict[str, int]

    @property
    def matched(self) -> float:
        """Queries that belong to a leaf."""
        return sum(self.event.counts.values())

    @property
    def unmatched(self) -> float:
        """Queries that belong to none."""
        return sum(self.event.unmatched.values())


@dataclass(frozen=True, slots=True)
class _Level:
    """The nodes of a level, where they are (shape [nodes, dim], unit rows), and how near is near."""

    ids: tuple[str, ...]
    places: Vectors
    floor: float


class Landmarks:
    """Where the nodes of a tree are, as one encoder sees them."""

    def __init__(self, tree: Tree, questions: Mapping[str, Sequence[str]], encoder: Encoder) -> None:
        """`questions`: those that were made up, by leaf, oldest first."""
        leaves = [leaf for leaf in tree.leaves() if len(tree.path(leaf.id)) == tree.levels]
        vectors = {leaf.id: _encoded(encoder, list(questions.get(leaf.id, ()))[-QUESTIONS:]) for leaf in leaves}
        below: dict[int, dict[str, list[Vectors]]] = {level: {} for level in range(1, tree.levels + 1)}
        for leaf in leaves:
            for node in tree.path(leaf.id):
                below[node.level].setdefault(node.id, []).append(vectors[leaf.id])
        self.encoder = encoder.hash
        self._levels = [
            _level({node: np.concatenate(parts) for node, parts in below[level].items()}, tree, encoder)
            for level in range(tree.levels, 0, -1)
            if below[level]
        ]

    def place(self, vectors: Vectors) -> list[tuple[str, bool]]:
        """For each query, shape [queries, dim], its node and whether it is a leaf that it belongs to."""
        found: list[tuple[str, bool]] = [(ROOT, False)] * len(vectors)
        open_ = np.arange(len(vectors))
        for depth, level in enumerate(self._levels):
            similarity = vectors[open_] @ level.places.T
            best = similarity.argmax(axis=1)
            near = similarity[np.arange(len(open_)), best] >= level.floor
            for place, node in zip(open_[near], best[near], strict=True):
                found[place] = (level.ids[node], depth == 0)
            open_ = open_[~near]
        return found

    @property
    def floors(self) -> list[float]:
        """The least similarity that counts as near, from the leaves' level up."""
        return [level.floor for level in self._levels]


def _level(vectors: Mapping[str, Vectors], tree: Tree, encoder: Encoder) -> _Level:
    names = encoder.encode([" ".join(tree.path_names(node)) for node in vectors])
    places, own = [], list[F64]()
    for name, rows in zip(names, vectors.values(), strict=True):
        total = rows.sum(axis=0, dtype=np.float64) + name
        places.append(_unit(total))
        if len(rows) > 1:
            # Each question is held against the place without it.
            rest = total - rows
            norms = np.maximum(np.linalg.norm(rest, axis=1), 1e-12)
            own.append((rows * rest).sum(axis=1) / norms)
    similar = np.concatenate(own) if own else np.empty(0)
    floor = float(np.quantile(similar, OWN)) if len(similar) >= LEAST_OWN else FLOOR
    return _Level(tuple(vectors), np.asarray(places, dtype=np.float32), floor)


def _encoded(encoder: Encoder, texts: Sequence[str]) -> Vectors:
    return encoder.encode(texts) if texts else np.empty((0, encoder.dim), dtype=np.float32)


def _unit(vector: F64) -> F64:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def questions_by_leaf(events: Iterable[tuple[int, AnyEvent]]) -> dict[str, list[str]]:
    """The questions of a log by leaf, oldest first."""
    found: dict[str, list[str]] = {}
    for _, event in events:
        if isinstance(event, Contested) and event.question.strip():
            found.setdefault(event.path[-1], []).append(event.question)
    return found


def map_traffic(
    log: TrafficLog,
    landmarks: Landmarks,
    *,
    tenant: str,
    since: float,
    until: float,
    all_keys: bool = False,
    round_: int = 0,
) -> Mapped:
    """Count the queries with `since <= created_at < until` at the nodes that they are near.

    A tenant's tree sees what came by the tenant's API key; the tree of nobody sees what came by none, or with
    `all_keys` everything. Left out: requests with `store: false`, and those whose vector is of another encoder.
    """
    left_out: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    unmatched: Counter[str] = Counter()
    read = 0
    records = log.read_interactions(since, until, content=False)
    while part := list(islice(records, _BATCH)):
        read += len(part)
        vectors = list(_vectors(part, landmarks.encoder, tenant, all_keys, left_out))
        for node, is_leaf in landmarks.place(np.asarray(vectors)) if vectors else ():
            (counts if is_leaf else unmatched)[node] += 1
    event = TrafficMapped(
        at=until,
        round=round_,
        counts={node: float(count) for node, count in sorted(counts.items())},
        unmatched={node: float(count) for node, count in sorted(unmatched.items())},
        until=until,
    )
    return Mapped(event, read, dict(sorted(left_out.items())))


def _vectors(
    records: Iterable[Interaction], encoder: str, tenant: str, all_keys: bool, left_out: Counter[str]
) -> Iterator[Vectors]:
    for record in records:
        if record.key_id != (tenant or None) and not (all_keys and not tenant):
            left_out["another key's"] += 1
        elif not record.stored or record.vector is None:
            left_out["without a vector"] += 1
        elif record.encoder != encoder:
            left_out["of another encoder"] += 1
        else:
            yield np.frombuffer(record.vector, dtype="<f4")
