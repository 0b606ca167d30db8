"""The commands of the log, as a user types them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from tests.traffic.samples import bare, feedback, interaction, score
from traffic.commands import log_app, moment
from traffic.sqlite_log import SqliteLog

runner = CliRunner()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A log of three interactions, one score and one feedback."""
    log = SqliteLog(tmp_path / "traffic.db")
    for record in (interaction(1), interaction(2, outcome="aborted"), bare(3), score(1, value=0.5), feedback(1)):
        log.append(record)
    asyncio.run(log.close())
    return f"sqlite:///{tmp_path / 'traffic.db'}"


def test_snapshot_writes_a_folder_and_prints_its_tables(url: str, tmp_path: Path) -> None:
    done = runner.invoke(log_app, ["snapshot", str(tmp_path / "s"), "--log", url])
    assert done.exit_code == 0, done.output
    assert "interactions" in done.output
    assert pyarrow.parquet.read_table(tmp_path / "s" / "interactions").num_rows == 3
    again = runner.invoke(log_app, ["snapshot", str(tmp_path / "s"), "--log", url])
    assert again.exit_code == 2
    assert "exists" in again.stderr
    as_json = runner.invoke(log_app, ["snapshot", str(tmp_path / "t"), "--log", url, "--since", "1002", "--json"])
    assert json.loads(as_json.stdout)["tables"]["interactions"]["rows"] == 2


def test_the_log_is_that_of_the_data_folder(url: str, tmp_path: Path) -> None:
    assert url.endswith("traffic.db")
    by_option = runner.invoke(log_app, ["stats", "--data-dir", str(tmp_path), "--json"])
    by_variable = runner.invoke(log_app, ["stats", "--json"], env={"TOKAMAK_DATA_DIR": str(tmp_path)})
    assert json.loads(by_option.stdout)["interactions"] == json.loads(by_variable.stdout)["interactions"] == 3


def test_export_writes_either_shape(url: str, tmp_path: Path) -> None:
    lines = runner.invoke(log_app, ["export", str(tmp_path / "o.jsonl"), "--log", url])
    assert lines.exit_code == 0, lines.output
    assert "2 written" in lines.output
    training = runner.invoke(log_app, ["export", str(tmp_path / "o.parquet"), "--log", url, "--shape", "training"])
    assert training.exit_code == 0, training.output
    # Said of it: a score of 0.5 and a feedback of 1.0.
    assert pyarrow.parquet.read_table(tmp_path / "o.parquet").column("score").to_pylist() == [0.75]


def test_stats_count_by_arm(url: str) -> None:
    done = runner.invoke(log_app, ["stats", "--log", url, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "interactions": 3,
        "without_content": 0,
        "outcomes": {"ok": 1, "aborted": 1, "rejected": 1},
        "feedback": 1,
        "scores": 1,
        "arms": [
            {
                "arm": "small", "requests": 2, "ok": 1, "prompt_tokens": 22, "completion_tokens": 14,
                "cost_usd": 3e-5, "mean_score": 0.5,
            }
        ],
    }  # fmt: skip
    table = runner.invoke(log_app, ["stats", "--log", url])
    assert "3 interactions (1 aborted, 1 ok, 1 rejected)" in table.output


def test_a_log_that_is_absent_is_not_created(tmp_path: Path) -> None:
    done = runner.invoke(log_app, ["stats", "--log", f"sqlite:///{tmp_path / 'typo.db'}"])
    assert done.exit_code == 2
    assert "there is no log" in done.stderr
    assert not (tmp_path / "typo.db").exists()


def test_a_moment_that_is_none_is_explained(url: str) -> None:
    done = runner.invoke(log_app, ["stats", "--log", url, "--since", "yesterday"])
    assert done.exit_code == 2
    assert "expected a moment" in done.stderr


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12.5", 12.5), ("1970-01-02", 86_400.0), ("1970-01-01T01:00", 3_600.0), ("1970-01-01T01:00+01:00", 0.0)],
)
def test_moments(text: str, seconds: float) -> None:
    assert moment(text) == seconds


def test_no_moment_is_none() -> None:
    assert moment(None) is None
