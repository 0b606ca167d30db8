"""What there is to see of a knowledge tree: its nodes, rounds, resets and costs, as a file that anybody may read.

Whoever changes a tree's log writes the file anew (`status.json` in the tree's folder). It is derived: the log is what
counts, and `events` says up to which of its events the file goes.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from registry.atomic_files import place_file
from registry.bohdi_trees import LOG_FILE, STATUS_FILE, tree_folder

LAYOUT: Final = 1


class BohdiUnreadable(RuntimeError):
    """The files of a tree cannot be read. The message says which, and what to do."""


class TreeMissing(BohdiUnreadable):
    """There is no tree of that name."""


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A domain. `a`, `b`: its posterior; `mean` with `low` and `high`, the ends of its 90 % interval.

    The posterior is that of P(some source beats the target): high means that the target lacks something. `asked`:
    contests ever, `asked_now`: of the target as it is. `recent`: mean reward in the window, None if that is empty.
    `queries`: of users, by traffic that was mapped; `unmatched`: those that are near it and near no node below.
    """

    id: str
    name: str
    parent: str
    level: int
    path: tuple[str, ...]
    status: Literal["active", "retired"]
    a: float
    b: float
    mean: float
    low: float
    high: float
    asked: int
    asked_now: int
    recent: float | None
    resets: int
    sprouts: int
    failed_sprouts: int
    retry_round: int
    queries: float
    unmatched: float


class RoundStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A round. `allocation`: contests by main domain; `won`: their rewards together, `reward`: the mean; `failures`:
    answers that failed, by model.

    `cost_usd` is None without prices, and of a round that has not ended.
    """

    number: int
    began_at: float
    ended: bool
    leader: str
    paths: int
    target_version: str
    contests: int
    dropped: dict[str, int]
    sprouted: int
    failed_sprouts: int
    allocation: dict[str, int]
    won: float
    reward: float | None
    failures: dict[str, int]
    cost_usd: float | None = None
    stopped_by: str = ""


class ResetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A node whose posterior started again from its window, with the test that fired."""

    at: float
    round: int
    node: str
    path: tuple[str, ...]
    rule: str
    statistic: float
    p_value: float
    false_discovery: float | None


class JudgeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A judge held against exact checkers; `agreement` is None if it decided nothing."""

    judge: str
    agreed: int
    disagreed: int
    tied: int
    abstained: int
    agreement: float | None


class TreeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A whole tree. `cost_usd` is what the rounds cost whose costs are known; `unpriced_rounds` are the others."""

    layout: int
    tree: str
    planted_at: float
    tenant: str
    target: str
    target_version: str
    sources: tuple[str, ...]
    levels: int
    events: int
    digest: str
    contests: int
    dropped: int
    cost_usd: float
    unpriced_rounds: int
    versions: tuple[tuple[int, str], ...]
    nodes: tuple[NodeStatus, ...]
    rounds: tuple[RoundStatus, ...]
    resets: tuple[ResetStatus, ...]
    judges: tuple[JudgeStatus, ...]
    queries: float
    unmatched: float
    traffic_until: float


def write_status(data_dir: Path, status: TreeStatus) -> None:
    """Put the status into its tree's folder, in one step."""
    place_file(tree_folder(data_dir, status.tree) / STATUS_FILE, msgspec.json.encode(status))


def read_status(data_dir: Path, tree: str) -> TreeStatus:
    """The status of a tree as it was last written.

    Raises
    ------
    TreeMissing: there is no such tree, or nobody has written its status yet.
    BohdiUnreadable: the file cannot be read.
    ValueError: no tree can have this name.
    """
    path = tree_folder(data_dir, tree) / STATUS_FILE
    try:
        found = msgspec.json.decode(path.read_bytes(), type=TreeStatus)
    except FileNotFoundError:
        if (path.parent / LOG_FILE).exists():
            message = f"the tree {tree!r} has no {STATUS_FILE} yet; `tokamak bohdi status --tree {tree}` writes it"
        else:
            message = f"there is no tree {tree!r}; `tokamak bohdi grow` plants one"
        raise TreeMissing(message) from None
    except (OSError, msgspec.DecodeError) as error:
        raise BohdiUnreadable(f"{path} cannot be read ({error}); delete it, and let `status` write it anew") from error
    if found.layout != LAYOUT:
        raise BohdiUnreadable(f"{path} has layout {found.layout}, known here is {LAYOUT}; let `status` write it anew")
    return found


def raw_events(data_dir: Path, tree: str, after: int, limit: int) -> tuple[int, list[tuple[int, Any]]]:
    """The number of the last event in a tree's log, and up to `limit` events after number `after`, as they are stored.

    Raises
    ------
    TreeMissing: there is no such tree.
    BohdiUnreadable: the log cannot be read.
    ValueError: no tree can have this name.
    """
    path = tree_folder(data_dir, tree) / LOG_FILE
    if not path.exists():
        raise TreeMissing(f"there is no tree {tree!r}; `tokamak bohdi grow` plants one")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0)) as db:
            (last,) = db.execute("SELECT coalesce(max(n), 0) FROM events").fetchone()
            rows = db.execute("SELECT n, body FROM events WHERE n > ? ORDER BY n LIMIT ?", (after, limit)).fetchall()
        return last, [(number, msgspec.json.decode(body)) for number, body in rows]
    except (sqlite3.Error, msgspec.DecodeError) as error:
        raise BohdiUnreadable(f"the episode log {path} cannot be read: {error}") from error
