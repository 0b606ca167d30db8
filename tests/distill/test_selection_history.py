"""Selections from refresh to refresh: where the next one starts, and which sources are no longer asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from offline.distill.distillation import distill
from offline.distill.recipe import RecipeError, read_recipe
from offline.distill.selection import Selection
from offline.distill.selection_history import SelectionHistory, without_idle
from tests.distill.test_fuse import recipe


def selection(useless: float, sources: tuple[str, ...] = ("letters", "calc")) -> Selection:
    mixture = np.array([[1.0 - useless, useless], [1.0 - useless / 2, useless / 2]])
    return Selection(sources, np.where(mixture < 0.1, 0.0, mixture), mixture)


def recorded(path: Path, weights: list[float]) -> SelectionHistory:
    for number, weight in enumerate(weights):
        SelectionHistory(path, f"recipe {number}").record(["add", "reverse"], selection(weight))
    return SelectionHistory(path, "now")


@pytest.mark.parametrize(
    ("weights", "idle"),
    [
        ([0.001, 0.002], []),
        ([0.001, 0.002, 0.009], ["calc"]),
        ([0.001, 0.002, 0.2], []),
        ([0.4, 0.001, 0.002, 0.003], ["calc"]),
    ],
)
def test_a_source_is_left_out_when_it_was_idle_three_times(
    tmp_path: Path, weights: list[float], idle: list[str]
) -> None:
    history = recorded(tmp_path / "history.json", weights)
    assert history.idle(["letters", "calc", "new"]) == idle
    left, names = without_idle(read_recipe(recipe(tmp_path)), history)
    assert names == idle
    assert [teacher.name for teacher in left.teachers] == [n for n in ("letters", "calc") if n not in idle]


def test_who_was_left_out_stays_out_and_who_is_new_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "history.json"
    alone = Selection(("letters",), np.ones((2, 1)), np.ones((2, 1)))
    for number in range(3):
        SelectionHistory(path, f"{number}").record(["add", "reverse"], alone, ["calc"])
    assert SelectionHistory(path, "now").idle(["letters", "calc", "new"]) == ["calc"]


def test_a_run_that_is_gone_on_with_finds_what_was_there_when_it_began(tmp_path: Path) -> None:
    path = tmp_path / "history.json"
    recorded(path, [0.3, 0.2, 0.1])
    again = SelectionHistory(path, "recipe 1")
    assert len(again.before) == 1
    again.record(["add", "reverse"], selection(0.05))
    kept = SelectionHistory(path, "now").before
    assert [refresh.mixture[0][1] for refresh in kept] == [0.3, 0.05, 0.1]


def test_a_new_domain_starts_even(tmp_path: Path) -> None:
    start = recorded(tmp_path / "history.json", [0.2]).start(["reverse", "sort"])
    assert start is not None
    np.testing.assert_allclose(start.mixture, [[0.9, 0.1], [0.5, 0.5]])
    assert SelectionHistory(tmp_path / "absent.json", "now").start(["add"]) is None


def test_a_broken_history_is_told(tmp_path: Path) -> None:
    (tmp_path / "history.json").write_text("{")
    with pytest.raises(RecipeError, match="cannot be read"):
        SelectionHistory(tmp_path / "history.json", "now")


@pytest.mark.slow
def test_a_distillation_keeps_its_selection_and_leaves_idle_sources_out(tmp_path: Path) -> None:
    stated = {"selection": {"history": "history.json"}, "evaluation": {"controls": []}}
    recorded(tmp_path / "history.json", [0.001, 0.001, 0.001])
    made = read_recipe(recipe(tmp_path, **stated))
    told: list[str] = []
    done = distill(made, say=told.append)
    assert done is not None
    assert "not asked again, as they taught next to nothing: calc" in told
    assert not any(line.startswith("calc:") and "scored" in line for line in told)
    kept = SelectionHistory(tmp_path / "history.json", "now").before[-1]
    assert (kept.sources, kept.left_out) == (("letters",), ("calc",))
    assert made.digest() == read_recipe(recipe(tmp_path, evaluation={"controls": []})).digest()
