"""The benchmark of Bohdi's exploration: it measures what it says, and a quick run does a little of all of it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import orjson
import pytest

from benchmarks import bohdi
from benchmarks.bohdi_lab import allocation, drift_test, gaps, growth
from benchmarks.bohdi_lab.learners import KINDS, interval, learner
from benchmarks.bohdi_lab.planted import settings_of


@pytest.mark.slow
def test_a_quick_run_measures_everything_but_the_gaps_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bohdi", "--quick"])
    monkeypatch.setenv("TOKAMAK_SHARED_DATA", str(tmp_path / "nothing"))
    before = sorted(bohdi.RESULTS.glob("bohdi*.json"))
    bohdi.main()
    said = capsys.readouterr().out
    assert "gaps left out" in said
    for figure in ("detection_share", "median_questions_per_leaf", "error_gain_vs_uniform_lo", "pull_us"):
        assert f"{figure} = " in said
    assert "gap_pulls_x_round_robin" not in said
    assert "replay_s_1m" not in said
    assert sorted(bohdi.RESULTS.glob("bohdi*.json")) == before


def test_a_part_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bohdi", "drfit"])
    with pytest.raises(SystemExit):
        bohdi.main()
    assert "expected parts among drift, growth, allocation, gaps, scale, got drfit" in capsys.readouterr().err


def test_the_live_figures_are_taken_over_or_said_to_be_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bohdi.live_figures(tmp_path) == {}
    assert "not in the bar: live_worst_family_gain_lo" in capsys.readouterr().out
    (tmp_path / "bohdi_live.json").write_bytes(orjson.dumps({"bar": {"live_worst_family_gain_lo": 0.1, "other": 1}}))
    assert bohdi.live_figures(tmp_path) == {"live_worst_family_gain_lo": 0.1}


def test_the_published_drift_test_errs_as_often_as_the_paper_s_code_does() -> None:
    rows = drift_test.trade_off(150)
    bar = drift_test.bar_of(rows)
    assert bar["false_resets_per_100_published"] == pytest.approx(0.8, abs=0.07)
    assert bar["false_resets_per_100"] < 0.1
    assert bar["detection_share"] > 0.85
    looser = [row["0.7 to 0.3 within 40"] for row in rows if row["test"].startswith("ours")]
    assert looser == sorted(looser, reverse=True)


def test_trees_grow_within_their_pools_and_every_path_is_counted() -> None:
    tree = growth.grown(settings_of(), (3, 2, 2), seed=0, loops=3)
    assert tree.root.n == 3 * growth.ROUNDS * growth.PATHS
    assert len(tree.children("root")) <= 3
    assert sum(1 for _ in tree.leaves()) <= 12
    assert growth.grown(settings_of(), (3, 2, 2), seed=0, loops=3).digest() == tree.digest()


@pytest.mark.parametrize("kind", KINDS)
def test_the_oracle_is_better_than_an_even_draw(kind: str) -> None:
    target = learner(kind, 7)
    even = np.full(64, 600 / 64)
    best = target.oracle(600)
    assert best.sum() == 600
    assert target.error(best).mean() < target.error(even).mean() < target.error(0 * even).mean()
    assert np.all((target.gain(even) >= 0) & (target.gain(even) <= 1))


@pytest.mark.parametrize("rule", allocation.RULES)
def test_every_contender_spends_the_same(rule: str) -> None:
    samples = allocation.contest(rule, learner(allocation.MAIN, 1), seed=1, loops=2)
    assert samples.sum() == pytest.approx(2 * allocation.SAMPLES)
    assert samples.min() >= 0


def test_intervals_and_crossings_by_hand() -> None:
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.0 - 4.3026527 / 3**0.5, 2.0 + 4.3026527 / 3**0.5))
    curve = np.array([0.2, 0.6, 0.5, 0.9, 1.0])
    assert gaps.reached(curve, 0.7, 70) == pytest.approx(70 * 3.5)
    assert gaps.reached(curve, 0.1, 70) == 70.0
    assert gaps.reached(curve, 1.1, 70) is None


def test_the_largest_gaps_are_found_where_they_are_plain() -> None:
    rng = np.random.default_rng(0)
    rates = np.where(np.arange(70) < 10, 0.9, 0.1)
    plain = gaps.Gaps("t", ("a",), 14, [(rng.random(60) < rate).astype(float) for rate in rates])
    found = gaps.curves(plain, "ours", seed=0, pulls=1400)
    assert found[-1].tolist() == [1.0, 10.0]
    assert np.all(found[:, 0] <= 1.0)
    assert np.array_equal(found, gaps.curves(plain, "ours", seed=0, pulls=1400))


def test_parts_that_are_measured_again_replace_theirs_and_nothing_else(tmp_path: Path) -> None:
    bohdi.keep([{"what": "gaps", "x": 1}, {"what": "scale", "x": 2}], {"pull_us": 9.0, "a": 1.0}, True, tmp_path)
    bohdi.keep([{"what": "scale", "x": 3}], {"pull_us": 7.0}, False, tmp_path)
    found = orjson.loads((tmp_path / "bohdi.json").read_bytes())
    assert found["rows"] == [{"what": "gaps", "x": 1}, {"what": "scale", "x": 3}]
    assert found["bar"] == {"pull_us": 7.0, "a": 1.0}
