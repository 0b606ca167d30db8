"""What sources propose becomes a domain: votes, near-synonyms, what is known, and what is not safe."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from offline.bohdi.events import ROOT, Planted, Sprouted, node_id
from offline.bohdi.log import StoredReply
from offline.bohdi.prompts import PromptSet, read_prompts
from offline.bohdi.sprout import Sprout, extracted, propose_calls, propose_prompt, sprouted
from offline.bohdi.tree import Tree
from tests.bohdi.speakers import ENCODER

STANDARD: PromptSet = read_prompts("standard")
ASKED = STANDARD.reading.propose


def tree_with(*names: str, parent: str = ROOT, levels: int = 3) -> Tree:
    tree = Tree()
    tree.apply(Planted(at=0.0, levels=levels, target="t", target_version="1", sources=("a", "b"), seed=0))
    for name in names:
        tree.apply(Sprouted(at=0.0, node=node_id(parent, name), parent=parent, name=name))
    return tree


def found(tree: Tree, said: Sequence[tuple[str, str | None]], parent: str = ROOT, seed: int = 1) -> Sprout | str:
    """What comes of (source, name) pairs; a name of None is a call that failed."""
    replies = [
        StoredReply(failure="down") if name is None else StoredReply(text=f"<field>{name}</field>") for _, name in said
    ]
    return sprouted(tree, parent, [source for source, _ in said], replies, ASKED, ENCODER, 0.9, seed)


def test_what_more_sources_name_comes_before_what_one_repeats() -> None:
    said = [("a", "Loud"), ("a", "Loud"), ("a", "Loud"), ("b", "Music"), ("c", "music")]
    sprout = found(tree_with(), said)
    assert isinstance(sprout, Sprout)
    assert (sprout.name, sprout.votes) == ("Music", {"b": 1, "c": 1})
    assert sprout.node == node_id(ROOT, "MUSIC")
    assert len(sprout.embedding) == ENCODER.dim


def test_equal_votes_are_drawn_by_the_seed_and_not_by_their_order() -> None:
    said = [("a", "Law"), ("b", "Music"), ("c", "History")]
    names = [getattr(found(tree_with(), said, seed=seed), "name", None) for seed in range(30)]
    turned = [getattr(found(tree_with(), said[::-1], seed=seed), "name", None) for seed in range(30)]
    assert names == turned
    assert set(names) == {"Law", "Music", "History"}


def test_near_synonyms_vote_together_and_the_usual_spelling_wins() -> None:
    said = [("a", "Mathematics"), ("b", "Math"), ("c", "mathematics"), ("c", "Law"), ("d", "Mathematics"), ("d", "Law")]
    sprout = found(tree_with(), said)
    assert isinstance(sprout, Sprout)
    assert (sprout.name, sprout.votes) == ("Mathematics", {"a": 1, "b": 1, "c": 1, "d": 1})


def test_what_is_there_already_is_not_added_under_any_name() -> None:
    tree = tree_with("Mathematics")
    assert found(tree, [("a", "mathematics"), ("b", "Maths")]) == "known"
    sprout = found(tree, [("a", "Mathematics"), ("b", "Maths"), ("c", "Law")])
    assert isinstance(sprout, Sprout)
    assert sprout.name == "Law"


def test_a_name_may_repeat_under_another_parent_but_not_under_itself() -> None:
    tree = tree_with("Physics", "Economics", "Statistics")
    below = found(tree, [("a", "Statistics")], parent=node_id(ROOT, "Economics"))
    assert isinstance(below, Sprout)
    assert below.node != node_id(ROOT, "Statistics")
    assert found(tree, [("a", "physics")], parent=node_id(ROOT, "Physics")) == "known"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([("a", None), ("b", None)], "unanswered"),
        ([("a", None), ("b", "?!")], "invalid"),
        ([("a", "unknown"), ("b", "see www.x.y for this")], "invalid"),
        ([("a", "Gun Making"), ("b", "Bomb Making")], "unsafe"),
    ],
)
def test_why_nothing_was_added_is_said(said: list[tuple[str, str | None]], why: str) -> None:
    assert found(tree_with(), said) == why


def test_what_is_not_safe_gives_way_to_what_is() -> None:
    sprout = found(tree_with(), [("a", "Bomb Making"), ("b", "Bomb Making"), ("c", "Pyrotechnics Law")])
    assert isinstance(sprout, Sprout)
    assert sprout.name == "Pyrotechnics Law"


def test_a_refusal_is_no_vote_and_no_bad_name() -> None:
    replies = [StoredReply(text="I'm sorry, but I can't help with that. <field>Law</field>")]
    assert sprouted(tree_with(), ROOT, ["a"], replies, ASKED, ENCODER, 0.9, 1) == "unanswered"


def test_the_last_marked_text_counts_and_thinking_does_not() -> None:
    text = "<think><field>Draft</field></think>Perhaps <field>First</field>, no: <field>\nSecond\n</field>"
    assert extracted(text, ASKED) == "Second"
    assert extracted("nothing", ASKED) is None
    assert extracted("<field></field>", ASKED) is None
    assert extracted("a\nb", read_prompts("tiny").reading.propose) == "a\nb"


def test_a_proposal_is_shown_the_path_and_what_is_known_there() -> None:
    tree = tree_with("Law", "C++", "法学")
    first = propose_prompt(tree, ROOT, STANDARD, 0)
    assert "On the map already: Law, C++, 法学" in first
    assert "a broad subject" in first
    below = propose_prompt(tree, node_id(ROOT, "C++"), STANDARD, 0)
    assert "We are here on it: C++" in below
    assert 'Known parts of "C++": (none yet)' in below


def test_of_many_known_names_some_are_shown_drawn_by_the_seed() -> None:
    tree = tree_with(*(f"Field {chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(60)))
    one, two = (propose_prompt(tree, ROOT, STANDARD, seed) for seed in (1, 2))
    assert one.count("Field ") == STANDARD.reading.show_taken
    assert one != two
    assert one == propose_prompt(tree, ROOT, STANDARD, 1)


def test_every_source_is_asked_so_often_with_seeds_of_its_own() -> None:
    calls = propose_calls(tree_with(), ROOT, ("a", "b"), STANDARD, {"a": 0.2}, 7, "r1/sprout/root/0")
    assert len(calls) == 2 * ASKED.samples
    assert len({call.seed for call in calls}) == len(calls)
    assert [call.temperature for call in calls if call.arm == "a"] == [0.2] * ASKED.samples
    assert [call.temperature for call in calls if call.arm == "b"] == [ASKED.temperature] * ASKED.samples
    assert calls[0].step == "r1/sprout/root/0/a/0"
