"""The training draw: what may be drawn, in which proportions, with which weights, and the same every time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline.bohdi.branches import draw_leaves
from offline.bohdi.candidates import UNKNOWN, Gathered, gather
from offline.bohdi.contamination import Benchmarks
from offline.bohdi.draw import NothingToDraw, Wanted, draw
from offline.bohdi.events import AnyEvent, Reply, Retired, RoundBegan, TargetChanged, Verdict
from offline.bohdi.licences import may_train, terms_of
from offline.bohdi.settings import Settings
from offline.bohdi.training_set import TrainingSet, digest_of
from tests.bohdi.grown import LARGE, LEAVES, OTHER, TARGET, checked, episode, path_of, planted, two_rounds, written

LEAF = [path_of(names)[-1] for names in LEAVES]


def gathered(*events: AnyEvent) -> Gathered:
    return gather(enumerate([*planted(), *events], 1))


def in_turn(count: int) -> Sequence[str]:
    return [LEAF[number % 4] for number in range(count)]


def drawn(found: Gathered, wanted: Wanted, benchmarks: Benchmarks | None = None) -> TrainingSet:
    return draw(found, in_turn, wanted, benchmarks or Benchmarks())


def test_what_may_be_drawn_is_the_answer_of_a_source_that_won_or_was_right() -> None:
    lost = episode(2, 0, verdict=Verdict(method="judge", winner=TARGET), reward=0.0)
    found = gathered(
        episode(1, 0),
        lost,
        checked(3, 1, right=[TARGET, OTHER], winner=TARGET, reward=0.0),
        checked(4, 1, right=[OTHER], winner=LARGE, reward=1.0),
        episode(5, 2, verdict=None, reward=None, dropped="no verdict"),
        episode(6, 2, verdict=Verdict(method="judge", winner=None), reward=0.5),
        episode(7, 2, replies=(Reply(model=LARGE, failure="refused"), Reply(model=TARGET, text="x"))),
        episode(8, 3),
        Retired(at=9.0, node=path_of(LEAVES[3])[0], reason="an operator's wish"),
    )
    taken = {(c.episode.step, c.answer.model): c for c in found.candidates}
    assert set(taken) == {("r1/p1", LARGE), ("r1/p3", OTHER)}
    assert taken["r1/p1", LARGE].agreement == pytest.approx(2 / 3)
    assert taken["r1/p3", OTHER].agreement == 1.0
    assert found.unfit == {"only the target": 1, "wrong": 1, "undecided": 2, "no answer": 1, "retired": 1}


def test_worse_answers_are_kept_for_pairs() -> None:
    found = gathered(
        episode(1, 0),
        checked(2, 0, right=[LARGE], winner=LARGE, reward=1.0),
        checked(3, 0, right=[TARGET, LARGE], winner=None, reward=0.0),
    )
    assert [[reply.model for reply in c.rejected] for c in found.candidates] == [[TARGET], [TARGET, OTHER], [OTHER]]


def test_fresh_and_replayed_examples_come_in_the_share_that_was_asked_for() -> None:
    found = gather(enumerate(two_rounds(), 1))
    made = drawn(found, Wanted(size=16, replay_share=0.25)).manifest
    assert (made.fresh, made.replay, made.target_version) == (12, 4, "t1")
    few = drawn(found, Wanted(size=1000, replay_share=0.25)).manifest
    assert few.fresh == 40
    assert few.replay == 13, "a third of the fresh ones, rounded: never more than a quarter of all"
    assert drawn(found, Wanted(size=10, replay_share=0.0)).manifest.replay == 0


def test_the_set_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    found = gather(enumerate(two_rounds(), 1))
    one, same, other = (drawn(found, Wanted(size=16, seed=seed)) for seed in (1, 1, 2))
    assert one == same
    assert one.manifest.digest == digest_of(one.examples, one.pairs)
    assert one.manifest.digest != other.manifest.digest


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 120), st.integers(0, 5), st.floats(0, 1))
def test_no_question_is_drawn_twice_and_weights_have_mean_one(size: int, seed: int, share: float) -> None:
    found = gather(enumerate(two_rounds(), 1))
    made = drawn(found, Wanted(size=size, seed=seed, replay_share=share))
    steps = [example.provenance.step for example in made.examples]
    assert len(steps) == len(set(steps)) <= size
    assert made.manifest.fresh + made.manifest.replay == len(steps)
    assert np.mean([example.weight for example in made.examples]) == pytest.approx(1.0)
    assert made.manifest.replay <= share * len(steps) + 1
    left = sum(made.manifest.left_out.values())
    assert left + len(steps) == 80, "every episode is in the set or named as left out"


def test_weights_are_importance_times_freshness_times_agreement() -> None:
    split = Verdict(method="judge", winner=LARGE, votes=(("j", LARGE), ("j", TARGET)))
    found = gathered(
        episode(1, 0), TargetChanged(at=5.0, version="t1"), TargetChanged(at=6.0, version="t2"),
        episode(2, 0, version="t2", verdict=split), episode(3, 0, version="t2"), episode(4, 1, version="t2"),
    )  # fmt: skip
    wanted = Wanted(size=4, replay_share=0.25)
    made = draw(found, lambda count: [LEAF[0]] * (count // 2) + [LEAF[1]] * (count // 2), wanted, Benchmarks())
    weights = {example.provenance.step: example.weight for example in made.examples}
    # Half of the draws and two thirds of the fresh examples are of the first leaf; the replayed one is 2 versions old.
    raw = {"r1/p2": 0.75 * 0.5, "r1/p3": 0.75 * 2 / 3, "r1/p4": 1.5 * 2 / 3, "r1/p1": 0.5 * 2 / 3}
    mean = sum(raw.values()) / 4
    assert weights == pytest.approx({step: value / mean for step, value in raw.items()})


def test_near_duplicates_and_questions_of_benchmarks_are_left_out() -> None:
    twice = episode(1, 0).question
    found = gathered(episode(1, 0), episode(2, 1, question=f"{twice.upper()}!"), episode(3, 2), episode(4, 3))
    known = Benchmarks()
    known.add("exam", [episode(3, 2).question])
    made = drawn(found, Wanted(size=10, benchmarks=("exam",)), known)
    assert [example.provenance.step for example in made.examples if example.provenance.step != "r1/p4"] == ["r1/p1"]
    assert made.manifest.left_out == {"duplicate": 1, "benchmark": 1}
    assert made.manifest.benchmark_questions == 1


def test_a_checked_answer_is_kept_rather_than_its_unchecked_duplicate() -> None:
    sure = checked(2, 1, right=[LARGE], winner=LARGE, reward=1.0)
    found = gathered(episode(1, 0, question=sure.question), sure)
    (example,) = drawn(found, Wanted(size=10)).examples
    assert (example.provenance.step, example.provenance.checked) == ("r1/p2", True)


def test_no_unchecked_source_fills_more_than_its_share() -> None:
    found = gathered(*(episode(n, n % 4) for n in range(20)))
    assert len(drawn(found, Wanted(size=10, source_share=0.5)).examples) == 5
    sure = gathered(*(checked(n, n % 4, right=[LARGE], winner=LARGE, reward=1.0) for n in range(20)))
    assert len(drawn(sure, Wanted(size=10, source_share=0.5)).examples) == 10


@pytest.mark.parametrize(
    ("names", "allowed"),
    [
        (("apache-2.0", "MIT"), True),
        (("apache-2.0", "openai"), False),
        (("apache-2.0", "home-made"), None),
        ((), None),
        (("llama3.1",), True),
    ],
)
def test_licences_say_whether_training_is_allowed(names: tuple[str, ...], allowed: bool | None) -> None:
    assert may_train(names) is allowed


def test_only_licensed_answers_are_drawn_where_that_is_asked_for() -> None:
    found = gathered(
        episode(1, 0), episode(2, 1, licences=("openai",)), episode(3, 2, licences=()),
        episode(4, 3, licences=("llama3.1",)),
    )  # fmt: skip
    everything = drawn(found, Wanted(size=10)).manifest
    assert (everything.may_train, len(everything.licences)) == (False, 4)
    made = drawn(found, Wanted(size=10, licensed=True))
    assert made.manifest.left_out == {"licence": 2}
    assert made.manifest.may_train is True
    assert {example.provenance.terms for example in made.examples} == {(), ("llama3.1",)}
    assert terms_of(("Gemma", "mit")) == ("gemma",)


def test_licences_of_the_settings_are_those_of_who_asked_and_who_answered() -> None:
    began = RoundBegan(
        at=3.0, round=1, leader=OTHER, paths=2, seed=0, target_version="t0", prompts_version="p1"
    )  # fmt: skip
    events = [*planted(), began, episode(1, 0, licences=()), episode(2, 0)]
    stated = gather(enumerate(events, 1), {LARGE: "mit", OTHER: "gemma"}).candidates
    assert [candidate.licences for candidate in stated] == [("gemma", "mit"), ("apache-2.0",)]
    (half, _) = gather(enumerate(events, 1), {LARGE: "mit"}).candidates
    assert half.licences == ("mit", UNKNOWN)
    assert may_train(half.licences) is None


def test_leaves_are_drawn_by_the_bandit_of_the_tree(tmp_path: Path) -> None:
    """The leaf in which the target loses nothing gets less of the set than those in which it loses everything."""
    rewards = [1.0, 1.0, 1.0, 0.0]
    events: Iterable[AnyEvent] = (episode(n, n % 4, reward=rewards[n % 4]) for n in range(160))
    log = written(tmp_path, [*planted(), *events])
    rules = Settings(target=TARGET, sources=(LARGE, OTHER))
    tree = log.tree()
    totals: Counter[str] = Counter()
    for seed in range(10):
        rng = np.random.default_rng(seed)
        made = draw(
            gather(log.events()), lambda count, rng=rng: draw_leaves(tree, count, rng, rules),  # type: ignore[misc]
            Wanted(size=40, seed=seed), Benchmarks(),
        )  # fmt: skip
        totals.update(made.manifest.leaves)
    assert totals[LEAF[3]] < 0.5 * min(totals[leaf] for leaf in LEAF[:3])


def test_a_log_without_anything_to_train_on_says_why() -> None:
    with pytest.raises(NothingToDraw, match="no episodes"):
        drawn(gathered(), Wanted(size=5))
    with pytest.raises(NothingToDraw, match="1 undecided"):
        drawn(gathered(episode(1, 0, verdict=None, reward=None)), Wanted(size=5))
    old = gathered(episode(1, 0), TargetChanged(at=5.0, version="t1"))
    with pytest.raises(NothingToDraw, match="'t1' of the target"):
        drawn(old, Wanted(size=5))
    assert len(drawn(old, Wanted(size=5, replay_share=1.0)).examples) == 1


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": 1, "replay_share": 1.5}, {"size": 1, "source_share": 0.0}])
def test_a_wish_that_cannot_be_met_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"share|at least one"):
        Wanted(**wrong)  # type: ignore[arg-type]
