"""The figures of the live proof, by hand."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from demo.bohdi import report
from demo.bohdi.domains import TAUGHT
from demo.bohdi.findings import Asked, Reset, RoundSeen, Run
from demo.bohdi.picture import draw
from demo.bohdi.policies import Plan, Policy, settings_of


def even(value: float, **others: float) -> dict[str, float]:
    return {**dict.fromkeys(TAUGHT, value), **others}


def seen(number: int, asked: dict[str, int], accuracy: dict[str, float], resets: tuple[Reset, ...] = ()) -> RoundSeen:
    found = Asked(asked=asked, gain={}, resets=resets, sprouted=(), dropped=0, stray=0)
    return RoundSeen(
        number=number, found=found, trained={"units": 10}, accuracy=accuracy, cost_usd=None, meditation_s=1.0,
        training_s=1.0,
    )  # fmt: skip


def made(policy: Policy, seed: int, end: dict[str, float], *rounds: RoundSeen) -> Run:
    return Run(policy, seed, even(0.0), (*rounds, seen(len(rounds) + 1, {"units": 8, "multiply": 2}, end)))


def test_the_worst_family_counts() -> None:
    run = made("ours", 1, even(0.5, roman=0.2, dates=0.8))
    assert run.worst == 0.2
    assert run.mean == pytest.approx((5 * 0.5 + 1.0) / 7)
    assert report.wasted(run) == pytest.approx(0.2)


def test_paired_differences_are_over_the_seeds_that_both_have() -> None:
    runs = [made("ours", seed, even(value)) for seed, value in ((1, 0.5), (2, 0.6), (3, 0.7), (9, 0.0))]
    runs += [made("uniform", seed, even(value)) for seed, value in ((1, 0.4), (2, 0.4), (3, 0.4))]
    gain = report.paired(runs, "ours", "uniform", report.worst)
    # Differences .1, .2, .3: mean .2, standard deviation .1, standard error .1 / sqrt(3), t(2) = 4.303.
    assert gain.seeds == 3
    assert gain.mean == pytest.approx(0.2)
    assert gain.low == pytest.approx(0.2 - 4.303 * 0.1 / 3**0.5)
    with pytest.raises(ValueError, match="two seeds"):
        report.paired(runs, "ours", "published", report.worst)


def test_questions_that_go_where_something_is_lacking_follow_it() -> None:
    know = even(1.0, roman=0.0)
    first, second = seen(1, {"units": 5, "roman": 5}, know), seen(2, {"roman": 10}, know)
    assert report.following(made("ours", 1, even(1.0), first, second, seen(3, {"roman": 10}, know))) is not None
    towards = Run("ours", 1, even(0.0), (first, second, seen(3, {"roman": 10}, know)))
    away = Run("ours", 1, even(0.0), (first, second, seen(3, {"units": 5, "facts": 5}, know)))
    assert report.following(towards) == pytest.approx(1.0)
    assert (report.following(away) or 0.0) < 0.0


def test_a_reset_is_right_where_the_pupil_had_learned() -> None:
    resets = (Reset("Lookup / Roman Numerals", 0.01), Reset("Ordering", 0.02), Reset("Arithmetic / Products", 0.03))
    run = made("ours", 1, even(1.0), seen(1, {}, even(0.0, roman=0.9)), seen(2, {}, even(1.0), resets=resets))
    assert report.resets(run) == (3, 1)


def test_a_run_survives_being_written_and_is_drawn(tmp_path: Path) -> None:
    run = made("ours", 1, even(1.0), seen(1, {"units": 3}, even(0.5), resets=(Reset("Lookup / Roman Numerals", 0.01),)))
    assert msgspec.json.decode(msgspec.json.encode(run), type=Run) == run
    assert [row["policy"] for row in report.rows([run])] == ["ours"]
    pytest.importorskip("matplotlib")
    draw([run, run], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_policies_differ_in_their_rules_alone() -> None:
    ours, uniform, published = (settings_of(policy, Plan(), 3) for policy in ("ours", "uniform", "published"))
    assert (ours.rule, uniform.rule, published.rule) == ("ours", "uniform", "published")
    assert (ours.drift, uniform.drift, published.drift) == ("two_sample", "none", "published")
    for field in ("sources", "paths_per_round", "replay_share", "seed", "prompts", "levels"):
        assert getattr(ours, field) == getattr(uniform, field) == getattr(published, field)
