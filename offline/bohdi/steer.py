"""Traffic steers the tree without leaking into it: logged queries are counted at leaves, by their vectors alone.

A query's text is never read: the log is read without content. What comes out are counts by node, and nothing else of a
query goes into the tree's log. So no prompt, no name of a domain and no training example can hold a user's words.

A node is where the questions that were made up for it are: the mean of their vectors and of its name's, in a space in
which the questions of a leaf are spread alike in all directions (the vectors are centred, and multiplied by the inverse
root of the covariance within leaves, shrunk towards a sphere). A query belongs to the nearest leaf if it is as near to
it as the tree's own questions are to theirs (all but the farthest 5 %). If it is not, it is unmatched at the nearest
node above of which that is true, and at the root in the end: there the tree should sprout.
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
"""Part of the tree's own questions that is farther from every node of a level than what counts as near."""
LEAST_OWN: Final = 20
"""Questions from which a floor and a spread can be told; with fewer they are `FLOOR` and the encoder's."""
FLOOR: Final = 0.1
FOLDS: Final = 5
"""Parts into which the questions are dealt to take the floors: each is held against what the others say."""
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
class _Space:
    """Where vectors are compared: `unit((vector - centre) @ shape)`."""

    centre: F64
    shape: F64

    def __call__(self, vectors: Vectors | F64) -> F64:
        return _unit((vectors - self.centre) @ self.shape)


@dataclass(frozen=True, slots=True)
class _Level:
    """The nodes of a level and where they are (shape [nodes, dim], unit rows)."""

    ids: tuple[str, ...]
    places: F64


@dataclass(frozen=True, slots=True)
class _Grown:
    """What the landmarks are made from: for each level, from the leaves' up, its nodes, the vectors of their names, and
    for each leaf the node that it lies below."""

    ids: list[tuple[str, ...]]
    names: list[Vectors]
    above: list[list[int]]

    def levels(self, asked: Sequence[Vectors], space: _Space) -> list[_Level]:
        """The levels, given the vectors of the questions of each leaf."""
        sums = [space(vectors).sum(axis=0) for vectors in asked]
        found = []
        for ids, names, above in zip(self.ids, self.names, self.above, strict=True):
            totals = space(names)
            np.add.at(totals, above, np.array(sums))
            found.append(_Level(ids, _unit(totals)))
        return found


class Landmarks:
    """Where the nodes of a tree are, as one encoder sees them.

    `floors`: the least similarity that counts as near, from the leaves' level up.
    """

    def __init__(self, tree: Tree, questions: Mapping[str, Sequence[str]], encoder: Encoder) -> None:
        """`questions`: those that were made up, by leaf, oldest first."""
        self.encoder = encoder.hash
        leaves = list(tree.leaves())
        asked = [_encoded(encoder, list(questions.get(leaf.id, ()))[-QUESTIONS:]) for leaf in leaves]
        grown = _grown(tree, [leaf.id for leaf in leaves], encoder)
        self._space = _space(asked, encoder.dim)
        self._levels = grown.levels(asked, self._space)
        self.floors = _floors(grown, asked, encoder.dim)

    def place(self, vectors: Vectors) -> list[tuple[str, bool]]:
        """For each query, shape [queries, dim], its node and whether it is a leaf that it belongs to."""
        found: list[tuple[str, bool]] = [(ROOT, False)] * len(vectors)
        rows, left = self._space(vectors), np.arange(len(vectors))
        for depth, (level, floor) in enumerate(zip(self._levels, self.floors, strict=True)):
            similarity = rows[left] @ level.places.T
            best = similarity.argmax(axis=1)
            near = similarity[np.arange(len(left)), best] >= floor
            for place, node in zip(left[near], best[near], strict=True):
                found[place] = (level.ids[node], depth == 0)
            left = left[~near]
        return found


def _grown(tree: Tree, leaves: Sequence[str], encoder: Encoder) -> _Grown:
    grown = _Grown([], [], [])
    for level in range(tree.levels, 0, -1) if leaves else ():
        above = [tree.path(leaf)[level - 1].id for leaf in leaves]
        ids = tuple(dict.fromkeys(above))
        grown.ids.append(ids)
        grown.names.append(encoder.encode([" ".join(tree.path_names(node)) for node in ids]))
        grown.above.append([ids.index(node) for node in above])
    return grown


def _space(groups: Sequence[Vectors], dim: int) -> _Space:
    rows = np.concatenate([*groups, np.empty((0, dim), np.float32)]).astype(np.float64)
    if len(rows) < LEAST_OWN:
        return _Space(np.zeros(dim), np.eye(dim))
    within = np.concatenate([group - group.mean(axis=0) for group in groups if len(group)])
    covariance = within.T @ within / len(rows)
    # The fewer questions there are for each direction, the less their covariance is to be believed.
    trust = len(rows) / (len(rows) + dim)
    sphere = max(float(np.trace(covariance)) / dim, 1e-12)
    values, directions = np.linalg.eigh(trust * covariance + (1.0 - trust) * sphere * np.eye(dim))
    return _Space(rows.mean(axis=0), directions / np.sqrt(values) @ directions.T)


def _floors(grown: _Grown, asked: Sequence[Vectors], dim: int) -> list[float]:
    """By level: what all but `OWN` of the questions reach when they are held against the others alone."""
    if sum(len(vectors) for vectors in asked) < LEAST_OWN:
        return [FLOOR] * len(grown.ids)
    nearest: list[list[F64]] = [[] for _ in grown.ids]
    for fold in range(FOLDS):
        inside = [np.arange(len(vectors)) % FOLDS != fold for vectors in asked]
        rest = [vectors[chosen] for vectors, chosen in zip(asked, inside, strict=True)]
        space = _space(rest, dim)
        held = space(np.concatenate([vectors[~chosen] for vectors, chosen in zip(asked, inside, strict=True)]))
        for found, level in zip(nearest, grown.levels(rest, space), strict=True):
            found.append((held @ level.places.T).max(axis=1, initial=-1.0))
    return [float(np.quantile(np.concatenate(found), OWN)) for found in nearest]


def _encoded(encoder: Encoder, texts: Sequence[str]) -> Vectors:
    return encoder.encode(texts) if texts else np.empty((0, encoder.dim), dtype=np.float32)


def _unit(rows: F64) -> F64:
    unit: F64 = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
    return unit


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
