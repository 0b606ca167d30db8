"""The sequential test: by hand, false alarms and delays on synthetic streams, and what comes of it in a real log."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from typer.testing import CliRunner

from offline.outcomes import outcomes_from_log
from offline.routing.drift_command import DRIFTED, drift_command
from offline.routing.watch_drift import lines, watch
from registry.artifacts import Artifacts
from registry.drift_records import DriftRecord, read_drift, since_by_arm, write_drift
from routers.catalogue import KIND
from routers.cost_scale import CostScale
from routers.evidence.drift import BETS, Detector, Reference, find_change, located, reference_of, split_reference
from routers.prior import PriorRouter
from routers.protocol import Prediction, TrainingError
from tests.offline_routers.interactions import ENCODER, HashEncoder, interaction, score, written
from traffic.records import Feedback, Interaction, Score
from traffic.stores import open_log

F64 = NDArray[np.float64]


def stream(rng: np.random.Generator, answers: int, drop: float = 0.0, at: int = 0, bias: float = 0.0) -> F64:
    """Residuals of right-or-wrong answers of varied difficulty, whose quality falls by `drop` at `at`."""
    true = rng.beta(2.0, 1.3, answers)
    now = np.clip(true - drop * (np.arange(answers) >= at), 0.0, 1.0)
    return (rng.random(answers) < now).astype(np.float64) - np.clip(true - bias, 0.0, 1.0)


def alarms(residuals: F64, first: int = 1000) -> int | None:
    change = find_change(residuals[first:], reference_of(residuals[:first]))
    return None if change is None else change.alarm


def test_two_steps_of_the_test_by_hand() -> None:
    detector = Detector(Reference(mean=0.1, variance=0.2, count=500, tolerance=0.05))
    up, down = 0.5 - 0.1 - 0.05, 0.1 - 0.5 - 0.05
    first = [1 + b / 2 * away for away in (up, down) for b in BETS]
    assert not detector.see(0.5)
    assert detector.evidence == pytest.approx(np.mean(first))
    up, down = -0.7 - 0.1 - 0.05, 0.1 + 0.7 - 0.05
    factors = [1 + b / 2 * away for away in (up, down) for b in BETS]
    detector.see(-0.7)
    assert detector.evidence == pytest.approx(np.mean([(m + 1) * f for m, f in zip(first, factors, strict=True)]))


def test_the_reference_by_hand() -> None:
    reference = reference_of([0.5, -0.5] * 100, tolerance=0.01)
    assert reference.mean == 0.0
    assert reference.variance == pytest.approx(0.25 * 200 / 199)
    assert reference.tolerance == pytest.approx(0.01 + np.sqrt(0.25 / 199))
    assert split_reference([0.0] * 250) == 200
    assert split_reference([0.0] * 1000) == 500
    assert split_reference([0.0] * 9000) == 1000


def test_where_a_change_began_and_its_size_by_hand() -> None:
    residuals = np.array([0.1, -0.1, 0.1, -0.1, -0.4, -0.6, -0.4, -0.6])
    change = located(residuals, 7, Reference(0.0, 0.01, 100, 0.0))
    assert (change.start, change.alarm) == (4, 7)
    assert change.effect == pytest.approx(-0.5)
    half = 1.96 * np.sqrt((0.04 / 3) / 4 + 0.01 / 100)
    assert (change.low, change.high) == pytest.approx((-0.5 - half, -0.5 + half))


def test_false_alarms_are_rarer_than_asked_for() -> None:
    """At most one per 10,000 answers of an arm on average, looked at after every answer."""
    rng = np.random.default_rng(0)
    found = sum(alarms(stream(rng, 4000)) is not None for _ in range(20))
    assert found / (20 * 3000) <= 1 / 10_000


def test_a_biased_router_and_another_mix_of_queries_raise_no_alarm() -> None:
    rng = np.random.default_rng(1)
    for _ in range(4):
        assert alarms(stream(rng, 4000, bias=0.1)) is None
    for _ in range(4):
        easy, hard = rng.beta(5, 1, 2000), rng.beta(1, 5, 2000)
        true = np.concatenate([easy, hard])
        assert alarms((rng.random(4000) < true) - true) is None


@pytest.mark.parametrize(("drop", "most"), [(0.1, 1200), (0.2, 400), (-0.2, 400)])
def test_changes_in_both_directions_are_found_soon_and_dated(drop: float, most: int) -> None:
    rng = np.random.default_rng(2)
    for _ in range(8):
        residuals = stream(rng, 6000, drop=drop, at=2500)
        change = find_change(residuals[1000:], reference_of(residuals[:1000]))
        assert change is not None
        assert 1500 <= change.alarm < 1500 + most
        assert abs(change.start - 1500) < 400
        assert np.sign(change.effect) == -np.sign(drop)
        assert change.low < change.effect < change.high


def test_what_cannot_be_tested_says_so() -> None:
    with pytest.raises(ValueError, match="needs 200 scored answers, got 3"):
        reference_of([0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="needs 200"):
        split_reference([0.1] * 199)
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]"):
        Detector(Reference(0.0, 0.2, 200, 0.01)).see(1.5)
    with pytest.raises(ValueError, match="run length"):
        Detector(Reference(0.0, 0.2, 200, 0.01), run_length=1.0)


def test_records_are_replaced_and_the_last_change_of_an_arm_counts(tmp_path: Path) -> None:
    record = DriftRecord(arm="a", router="r@1", checked_at=1.0, answers=300, reference=200, run_length=1e4)
    write_drift(tmp_path, [record])
    changed = msgspec.structs.replace(record, since=5.0, alarm_at=6.0, effect=-0.1, low=-0.2, high=0.0)
    write_drift(tmp_path, [changed, msgspec.structs.replace(changed, router="r@2", since=9.0)])
    write_drift(tmp_path, [msgspec.structs.replace(record, arm="b")])
    found = read_drift(tmp_path)
    assert [(r.router, r.arm, r.drifted) for r in found] == [
        ("r@1", "a", True),
        ("r@1", "b", False),
        ("r@2", "a", True),
    ]
    assert since_by_arm(found) == {"a": 9.0}
    (tmp_path / "drift.jsonl").write_text("{\n")
    with pytest.raises(ValueError, match="line 1 is not a drift record"):
        read_drift(tmp_path)


def deployed(data_dir: Path) -> str:
    """A router that expects .8 of `good` and of `steady` whatever the query."""
    quality, std = np.array([0.8, 0.8], dtype=np.float32), np.full(2, 0.01, dtype=np.float32)
    unknown = np.full(2, np.nan, dtype=np.float32)
    router = PriorRouter(("good", "steady"), ENCODER, CostScale(), Prediction(quality, std, unknown, unknown))
    artifacts = Artifacts(data_dir / "artifacts")
    version = artifacts.publish(KIND, "prior", router.arrays(), router.meta()).version
    artifacts.deploy(KIND, version)
    return version


async def drifting_log(folder: Path) -> None:
    """1,500 scored answers of each arm; `good` gets 20 points worse after its first 900."""
    rng = np.random.default_rng(3)
    records: list[Interaction | Feedback | Score] = []
    for number in range(3000):
        arm = ("good", "steady")[number % 2]
        quality = 0.6 if arm == "good" and number >= 1800 else 0.8
        records.append(interaction(number, arm, f"question {number}"))
        records.append(score(number, float(rng.random() < quality)))
    log = await written(folder, records)
    await log.close()


async def test_a_changed_arm_is_found_in_the_log_and_its_past_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await drifting_log(tmp_path)
    version = deployed(tmp_path)
    monkeypatch.setattr("offline.routing.drift_command.load_encoder", lambda _: HashEncoder())
    app = typer.Typer()
    app.command("drift")(drift_command)
    monkeypatch.setattr("asyncio.run", run_in_thread)
    done = CliRunner().invoke(app, ["--data-dir", str(tmp_path), "--since", "0"])
    assert done.exit_code == DRIFTED, done.output
    assert "good: 1500 scored answers, CHANGED since about" in done.output
    assert "steady: 1500 scored answers, no change" in done.output
    good, steady = read_drift(tmp_path)
    assert (good.router, good.arm, good.reference) == (version, "good", 750)
    assert good.since == pytest.approx(1000.0 + 1800, abs=200)
    assert good.alarm_at is not None
    assert good.since is not None
    assert good.since < good.alarm_at
    assert good.effect == pytest.approx(-0.2, abs=0.08)
    assert not steady.drifted
    log = open_log(f"sqlite:///{tmp_path / 'traffic.db'}")
    whole = outcomes_from_log(log, HashEncoder())
    later = outcomes_from_log(log, HashEncoder(), since_by_arm=since_by_arm(read_drift(tmp_path)))
    await log.close()
    assert "drifted" not in whole.counts
    assert later.counts["drifted"] + later.counts["used"] == whole.counts["used"] == 3000
    column = later.outcomes.arms.index("good")
    assert np.nanmean(later.outcomes.quality[:, column]) == pytest.approx(0.6, abs=0.06)


def run_in_thread(coroutine: object) -> object:
    """`asyncio.run` for a command that is called inside a test's own event loop."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.new_event_loop().run_until_complete(coroutine)).result()  # type: ignore[arg-type]


async def test_few_answers_are_reported_and_not_tested(tmp_path: Path) -> None:
    records = [record for i in range(50) for record in (interaction(i, "good", f"q {i}"), score(i, 1.0))]
    log = await written(tmp_path, records)
    quality, std = np.array([0.8], dtype=np.float32), np.full(1, 0.01, dtype=np.float32)
    router = PriorRouter(("good",), ENCODER, CostScale(), Prediction(quality, std, quality, quality))
    found = watch(log, router, "prior@00000000", 0.0)
    await log.close()
    assert [(r.answers, r.evidence, r.drifted) for r in found] == [(50, None, False)]
    assert list(lines(found)) == ["good: 50 scored answers, 150 more are needed before it is watched"]


def test_without_a_router_or_a_log_there_is_a_clear_error(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command("drift")(drift_command)
    done = CliRunner().invoke(app, ["--data-dir", str(tmp_path)])
    assert done.exit_code == 2
    assert "no router is deployed" in done.output
    assert issubclass(TrainingError, ValueError)
