"""The benchmark of the distillation on little: it measures what it says it measures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks.distill import bar_of, main, measured_live  # noqa: E402
from benchmarks.distill_lab import alignment, memory, store  # noqa: E402
from benchmarks.distill_lab.interference import Trial, merged, table  # noqa: E402


@pytest.mark.slow
def test_the_quick_part_runs_and_meets_the_bars_that_do_not_depend_on_the_machine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    main(["--quick"])
    told = capsys.readouterr().out
    assert "aligned_share_min" in told
    assert "store_bytes_per_token" in told


def test_every_position_is_aligned_and_no_gradient_is_wrong() -> None:
    rows = alignment.aligned(2, 900) + alignment.copying(1, 900) + alignment.gradients(2, 900)
    bar = bar_of(rows)
    assert bar["aligned_share_min"] >= 0.99
    assert bar["gradient_worst"] < 1e-3
    assert bar["copied_share"] == 0.0
    assert bar["copied_share_published"] > 0.1
    assert {row["text"] for row in rows if row["what"] == "aligned"} == {"english", "code", "chinese"}


def test_memory_is_that_of_the_tensors() -> None:
    row = memory.memory(1, 640, 4_000, 2)
    each = memory.size_of(memory.rows_of(640, 4_000, 0))
    assert each == 640 * (33 * (8 + 4) + 4 + 1)
    assert row["targets_mb"] == pytest.approx(2 * each / 1e6)
    assert row["dense_mb"] == pytest.approx(2 * 640 * 4_000 * 2 / 1e6)
    held = memory.peak_bytes(lambda: torch.zeros(1000, dtype=torch.float32).sum())
    assert 4_000 <= held < 6_000


def test_a_stored_signal_is_small_and_comes_back(tmp_path: Path) -> None:
    row = store.stored(tmp_path, 8, rounds=1)
    assert row["bytes_per_token"] < 150
    assert row["write_mb_s"] > 0


def test_interference_is_counted_against_the_base_and_plain_training() -> None:
    rng = np.random.default_rng(0)
    domains = ["a"] * 40 + ["b"] * 40
    base = rng.normal(-3.0, 0.3, 80)
    better, worse_in_b = base + 0.1, base + np.where(np.array(domains) == "b", -0.2, 0.3)
    trials = [
        Trial(0, 2, "none", better, {}),
        Trial(0, 2, "em", better + 0.02, {"noisy": 0.01}),
        Trial(0, 2, "min_ce", better, {}),
        Trial(0, 2, "uniform", worse_in_b, {"noisy": 0.5}),
    ]
    rows = table(trials, {0: base}, domains)
    found = {row["method"]: row for row in rows[:-1]}
    assert (found["em"]["degraded_vs_base"], found["uniform"]["degraded_vs_base"]) == (0, 1)
    assert (found["em"]["degraded_vs_clm"], found["uniform"]["degraded_vs_clm"]) == (0, 1)
    assert found["em"]["weight_of_noisy"] == 0.01
    assert found["none"]["gain_over_clm"] == 0.0
    bar = merged([rows[-1]["bar"], rows[-1]["bar"]])
    assert bar["degraded_x_uniform"] == bar["degraded_vs_clm_x_uniform"] == 0.0
    assert bar["avg_minus_clm_lo"] == pytest.approx(0.02)
    assert bar_of([{"what": "interference, all", "bar": bar}])["avg_minus_min_ce"] == pytest.approx(0.02)


def test_figures_of_the_live_demonstration_are_taken_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measured_live(tmp_path) == {}
    assert "no result of a live proof" in capsys.readouterr().out
    (tmp_path / "distill_live.json").write_bytes(orjson.dumps({"bar": {"useless_teacher_weight": 0.01, "x": 1}}))
    assert measured_live(tmp_path) == {"useless_teacher_weight": 0.01}
