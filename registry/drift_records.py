"""What was found out about arms that changed under their name: one line per router version and arm, in `drift.jsonl`.

The offline half writes it (`tokamak drift`), the admin API shows it, and training leaves out what an arm answered
before it changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

DRIFT_FILE = "drift.jsonl"
"""Its name below the data folder."""


class DriftRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One arm as it was last checked against the predictions of one router version.

    Attributes
    ----------
    answers: scored answers that were looked at; the first `reference` of them say what is usual.
    evidence, run_length: the alarm is given when evidence reaches the run length, which is the least expected number of
        scored answers between false alarms. Evidence is None while the reference is not complete.
    since: Unix time at which the change is estimated to have begun; None without an alarm.
    effect, low, high: change of mean quality since then, with its 95 % interval.
    """

    arm: str
    router: str
    checked_at: float
    answers: int
    reference: int
    run_length: float
    evidence: float | None = None
    alarm_at: float | None = None
    since: float | None = None
    effect: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def drifted(self) -> bool:
        """Whether an alarm was given."""
        return self.since is not None


def read_drift(data_dir: Path) -> list[DriftRecord]:
    """The records of a data folder; none if the file is not there.

    Raises
    ------
    ValueError: a line is not a record.
    """
    path = data_dir / DRIFT_FILE
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(msgspec.json.decode(line, type=DriftRecord))
        except msgspec.DecodeError as error:
            raise ValueError(f"{path}, line {number} is not a drift record ({error}); delete the line") from error
    return records


def write_drift(data_dir: Path, fresh: Iterable[DriftRecord]) -> None:
    """Put the records in the place of those of the same router version and arm; the file changes in one step."""
    found = {(record.router, record.arm): record for record in read_drift(data_dir)}
    found |= {(record.router, record.arm): record for record in fresh}
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / DRIFT_FILE
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        for record in sorted(found.values(), key=lambda record: (record.router, record.arm)):
            file.write(msgspec.json.encode(record) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def since_by_arm(records: Iterable[DriftRecord]) -> dict[str, float]:
    """For each arm that drifted, the Unix time from which its answers are those of the arm as it is now."""
    found: dict[str, float] = {}
    for record in records:
        if record.since is not None:
            found[record.arm] = max(record.since, found.get(record.arm, record.since))
    return found
