"""From measured scores to the table, the figures, the plot and the exit code."""

from __future__ import annotations

from collections import Counter
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from demo import report
from demo.experiment import BALANCED, BEST, Findings, Kind, Measured
from demo.plot import PlotUnavailable, draw
from demo.run import Exit, show

N = 200


def measured(name: str, kind: Kind, right: int, cost: float = 1e-4, route: str | None = None) -> Measured:
    """`right` of `N` test queries answered well, the first ones."""
    scores = (np.arange(N) < right).astype(np.float64)
    return Measured(name, kind, scores, np.full(N, cost), Counter({name: N}), route)


def findings(before: int, after: int, cost: float = 1e-4) -> Findings:
    rows = (
        measured("small", "model", 100, cost),
        measured("large", "model", 120, 4 * cost),
        measured("random routing", "random", 110, 2 * cost),
        measured("before", "before", before, 4 * cost, BEST),
        measured("before", "before", before, cost, BALANCED),
        measured("after", "after", after, 2 * cost, BEST),
        measured("after", "after", after, cost, BALANCED),
        measured("oracle", "oracle", 190, cost),
    )
    return Findings("pool", "Costs are invented.", 400, rows, 1200, 0.5, "cluster@12345678", {"explore": 1.0})


def test_figures_are_those_of_the_contract() -> None:
    found = report.figures(findings(before=120, after=150), "replay")
    assert found["replay_best_single"] == 0.6
    assert (found["replay_before"], found["replay_after"], found["replay_oracle"]) == (0.6, 0.75, 0.95)
    assert found["replay_cost_x_best_single"] == 0.5
    assert found["replay_after_minus_before_lo"] > 0
    assert found["replay_random"] == 0.55


def test_unknown_costs_are_absent_not_zero() -> None:
    unpriced = findings(120, 150, cost=float("nan"))
    assert "replay_cost_x_best_single" not in report.figures(unpriced, "replay")
    assert all("usd_per_1k" not in row for row in report.rows(unpriced))
    assert unpriced.best_single.cost_per_1k is None


def test_best_single_is_the_most_accurate_model() -> None:
    assert findings(120, 150).best_single.name == "large"
    with pytest.raises(LookupError, match="auto:none"):
        findings(120, 150).row("after", "auto:none")


@pytest.mark.parametrize(("before", "after", "helped"), [(120, 150, True), (120, 120, False), (120, 100, False)])
def test_verdict_follows_the_paired_scores(before: int, after: int, helped: bool) -> None:
    assert findings(before, after).verdict().helped is helped


def test_table_names_everyone_and_says_whether_it_helped(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = StringIO()
    show(findings(120, 150), tmp_path, Console(file=out, width=200))
    text = out.getvalue()
    for expected in (
        "large *",
        "after: after 100 %",
        "oracle",
        "Learning helped",
        "+15.0 points",
        "1,200 scored answers",
    ):
        assert expected in text
    assert (tmp_path / "findings.json").read_bytes().startswith(b"[")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_plot_without_any_cost_says_why(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(PlotUnavailable, match="no cost"):
        draw(findings(120, 150, cost=float("nan")), tmp_path / "plot.png")


def test_a_broken_run_is_worse_than_one_that_did_not_help() -> None:
    assert max(Exit.HELPED, Exit.DID_NOT_HELP) == Exit.DID_NOT_HELP
    assert max(Exit.DID_NOT_HELP, Exit.FAILED) == Exit.FAILED
    assert int(Exit.HELPED) == 0
