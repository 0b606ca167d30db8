"""Traffic steers the tree by vectors alone: queries count at the right leaves, and nobody's words get anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from offline.bohdi.events import ROOT, Retired
from offline.bohdi.steer import FLOOR, Landmarks, Mapped, map_traffic, questions_by_leaf
from offline.bohdi.tree import Tree
from tests.bohdi.grown import path_of
from tests.bohdi.logged import COOKING, ENCODER, TOPICS, asked, logged, topical, traffic
from traffic.log import TrafficLog
from traffic.records import Interaction
from traffic.stores import open_log

ALL = list(TOPICS)
LEAF = {names: path_of(names)[-1] for names in ALL}


def grown(questions: int = 10) -> tuple[Tree, Landmarks]:
    tree, events = Tree(), list(topical(questions))
    for event in events:
        tree.apply(event)
    return tree, Landmarks(tree, questions_by_leaf(enumerate(events, 1)), ENCODER)


@contextmanager
def read(url: str) -> Iterator[TrafficLog]:
    log = open_log(url)
    yield log
    asyncio.run(log.close())


def mapped(
    folder: Path, records: list[Interaction], *, tenant: str = "", all_keys: bool = False, since: float = 0.0
) -> Mapped:
    with read(traffic(folder, records)) as log:
        return map_traffic(log, grown()[1], tenant=tenant, all_keys=all_keys, since=since, until=10_000.0)


def test_queries_are_counted_at_the_leaves_that_they_are_about() -> None:
    landmarks = grown()[1]
    for names, words in TOPICS.items():
        vectors = ENCODER.encode([asked(words, number) for number in range(10, 25)])
        found = landmarks.place(vectors)
        assert sum(node == LEAF[names] for node, _ in found) >= 13, names


def test_what_is_about_nothing_in_the_tree_is_unmatched_more_often_than_what_is() -> None:
    landmarks = grown()[1]
    strange = landmarks.place(ENCODER.encode([asked(COOKING, number) for number in range(25)]))
    known = [
        place
        for words in TOPICS.values()
        for place in landmarks.place(ENCODER.encode([asked(words, number) for number in range(10, 25)]))
    ]
    missed = [sum(not is_leaf for _, is_leaf in places) / len(places) for places in (strange, known)]
    assert missed[0] > 0.5
    assert missed[1] < 0.2
    assert {node for node, is_leaf in strange if not is_leaf} <= {ROOT, *(path_of(names)[0] for names in ALL)}


def test_a_young_tree_places_queries_by_names_alone() -> None:
    landmarks = grown(questions=0)[1]
    assert landmarks.floors == [FLOOR, FLOOR]
    found = landmarks.place(ENCODER.encode(["Which chemistry is in salt?", "An astronomy telescope"]))
    assert [node for node, _ in found] == [LEAF["Science", "Chemistry"], LEAF["Science", "Astronomy"]]


def test_an_empty_tree_leaves_everything_at_the_root() -> None:
    tree = Tree()
    tree.apply(next(topical()))
    landmarks = Landmarks(tree, {}, ENCODER)
    assert landmarks.place(ENCODER.encode(["x", "y"])) == [(ROOT, False)] * 2


def test_a_retired_leaf_gets_no_traffic() -> None:
    tree, _ = grown()
    tree.apply(Retired(at=1.0, node=LEAF["Science", "Astronomy"], reason="test"))
    landmarks = Landmarks(tree, questions_by_leaf(enumerate(topical(), 1)), ENCODER)
    vectors = ENCODER.encode([asked(TOPICS["Science", "Astronomy"], number) for number in range(25)])
    assert all(node != LEAF["Science", "Astronomy"] for node, _ in landmarks.place(vectors))


def test_each_tree_sees_only_its_tenant_s_traffic(tmp_path: Path) -> None:
    words = TOPICS["Law", "Contracts"]
    records = [
        logged(asked(words, number), number, key=key)
        for number, key in enumerate([None, "alice", "alice", "bob", "bob", "bob"])
    ]
    seen = {}
    for tenant in ("", "alice", "bob", "carol"):
        (tmp_path / (tenant or "none")).mkdir()
        found = mapped(tmp_path / (tenant or "none"), records, tenant=tenant)
        seen[tenant] = found.matched + found.unmatched
        assert found.read == 6
        assert found.left_out == {"another key's": 6 - seen[tenant]}
    assert seen == {"": 1, "alice": 2, "bob": 3, "carol": 0}
    (tmp_path / "all").mkdir()
    everything = mapped(tmp_path / "all", records, all_keys=True)
    assert everything.matched + everything.unmatched == 6
    (tmp_path / "one").mkdir()
    one = mapped(tmp_path / "one", records, tenant="alice", all_keys=True)
    assert one.matched + one.unmatched == 2, "a tenant's tree never sees another's traffic"


def test_what_must_not_or_cannot_be_mapped_is_counted_and_left_out(tmp_path: Path) -> None:
    text = asked(TOPICS["Law", "Contracts"], 3)
    records = [logged(text, 0), logged(text, 1, stored=False), logged(text, 2, encoder="0123"), logged(text, 3, at=0.0)]
    found = mapped(tmp_path, records, since=100.0)
    assert found.left_out == {"of another encoder": 1, "without a vector": 1}
    assert (found.read, found.matched) == (3, 1)
    assert found.event.counts == {LEAF["Law", "Contracts"]: 1.0}
    assert found.event.until == 10_000.0


def test_no_text_is_read_and_none_comes_out(tmp_path: Path) -> None:
    """The log is asked without content, and the event holds ids of nodes and numbers alone."""
    records = [logged(f"canary-{number} breach of contract by the seller", number) for number in range(5)]
    url = traffic(tmp_path, records)
    with read(url) as log:
        asked_for: list[bool] = []
        reader = log.read_interactions

        def watched(since: float = 0.0, until: float | None = None, *, content: bool = True) -> Iterator[Interaction]:
            asked_for.append(content)
            return reader(since, until, content=content)

        log.read_interactions = watched  # type: ignore[method-assign]
        tree, landmarks = grown()
        event = map_traffic(log, landmarks, tenant="", since=0.0, until=10_000.0).event
    assert asked_for == [False]
    assert b"canary" not in msgspec.json.encode(event)
    assert {*event.counts, *event.unmatched} <= {ROOT, *(node.id for node in tree.nodes())}
    tree.apply(event)
    assert tree.root.traffic == 5.0
    assert tree.state.traffic_until == 10_000.0


def test_places_do_not_depend_on_the_order_of_queries() -> None:
    landmarks = grown()[1]
    vectors = ENCODER.encode([asked(words, number) for words in TOPICS.values() for number in range(12)])
    order = np.random.default_rng(0).permutation(len(vectors))
    straight = landmarks.place(vectors)
    assert [straight[place] for place in order] == landmarks.place(vectors[order])
