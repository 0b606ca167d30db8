"""`tokamak demo`: starts a fleet and the gateway, sends traffic, lets the gateway learn, and shows what it gained."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from demo import report
from demo.client import gateway_client
from demo.experiment import EXPLORE, Experiment, Findings, Plan
from demo.fleet.config import fleet_config
from demo.plot import PlotUnavailable, draw
from demo.replay.config import replay_config
from demo.replay.load import load_sample
from demo.stack import Stack, all_feedback_logged, fleet_upstream, gateway, replay_upstream, train
from demo.workload import FleetWorkload, ReplayWorkload, Workload

Fleet = Literal["replay", "models", "all"]
DEFAULT_POOL = "llmrouter14"
DEFAULT_FOLDER = Path("tokamak-data") / "demo"
REPLAY_ASKS = 9
FLEET_ASKS = 3
"""Of how many arms each training query is asked, at most all of them: what learning costs, and how sure it becomes."""


FLEET_CONCURRENCY = 8
"""The small models take turns on one thread: more requests at once would only wait longer."""


class Exit(IntEnum):
    """Exit codes of `tokamak demo`; the largest of all fleets counts."""

    HELPED = 0
    DID_NOT_HELP = 1
    FAILED = 2


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fleet ready to be run: what is asked, how often, who answers, and the gateway's config for it."""

    name: str
    workload: Workload
    plan: Plan
    upstream: Callable[[Path], AbstractContextManager[str]]
    config: Callable[[str], dict[str, Any]]


class ShownProgress:
    """Shows each phase of the experiment as a bar, or as a line where the output is not a terminal."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def start(self, phase: str, total: int) -> None:
        if self._bars.disable:
            self._bars.console.print(f"{phase}: {total:,} to do", highlight=False)
        self._task = self._bars.add_task(phase, total=total)

    def step(self) -> None:
        if self._task is not None:
            self._bars.advance(self._task)


def run(
    fleet: Fleet = "all",
    pool: str = DEFAULT_POOL,
    queries: int | None = None,
    asks: int | None = None,
    router: str = "cluster",
    out_dir: Path = DEFAULT_FOLDER,
    console: Console | None = None,
) -> int:
    """Run the demo on one fleet or both, print tables, write plots and `findings.json` below `out_dir`.

    `pool` names a bundled replay sample or a log file; `queries` limits the replayed queries; each train query is
    asked of `asks` arms. Returns an `Exit` code: 0 only if learning helped on every fleet that was asked for.
    """
    console = console or Console()
    codes = []
    try:
        for scenario in scenarios(fleet, pool, queries, asks):
            findings = run_scenario(scenario, router, out_dir, console)
            codes.append(Exit.HELPED if findings.verdict().helped else Exit.DID_NOT_HELP)
    except (RuntimeError, ValueError) as error:
        console.print(f"[bold red]The demo could not be completed:[/] {_escaped(error)}")
        return Exit.FAILED
    return max(codes)


def scenarios(fleet: Fleet, pool: str, queries: int | None, asks: int | None) -> Iterator[Scenario]:
    """The scenarios of a fleet's name. Raises SampleError for an unknown pool."""
    if fleet in ("replay", "all"):
        yield _replay_scenario(pool, queries, asks or REPLAY_ASKS)
    if fleet in ("models", "all"):
        yield _fleet_scenario(asks or FLEET_ASKS)


def _replay_scenario(pool: str, queries: int | None, asks: int) -> Scenario:
    sample = load_sample(pool)
    return Scenario(
        name=f"replay-{sample.header.name}",
        workload=ReplayWorkload(sample, queries),
        plan=Plan(asks=asks),
        upstream=lambda folder: replay_upstream(pool, folder),
        config=lambda base_url: replay_config(base_url, sample),
    )


def _fleet_scenario(asks: int) -> Scenario:
    workload = FleetWorkload()

    def config(base_url: str) -> dict[str, Any]:
        made = fleet_config(base_url)
        auto = made["routes"]["auto"]
        return {**made, "routes": {**made["routes"], EXPLORE: {**auto, "exploration": 1.0}}}

    return Scenario(
        name="models",
        workload=workload,
        plan=Plan(asks=asks, concurrency=FLEET_CONCURRENCY),
        upstream=lambda folder: fleet_upstream(workload.models, folder),
        config=config,
    )


def run_scenario(scenario: Scenario, router: str, out_dir: Path, console: Console) -> Findings:
    """Run one scenario in `out_dir/<name>` and show what it found.

    Raises StackError, TrafficError or WrongAnswer.
    """
    folder = (out_dir / scenario.name).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    workload = scenario.workload
    console.print(
        f"[bold]{scenario.name}[/]: {len(workload.models)} models, {len(workload.train):,} queries to learn from and "
        f"{len(workload.test):,} to be judged on. Starting the upstream and the gateway ..."
    )
    with (
        scenario.upstream(folder) as upstream,
        gateway(scenario.config(upstream), folder) as stack,
        bars(console) as shown,
    ):
        findings = asyncio.run(_experiment(scenario, stack, router, ShownProgress(shown)))
    show(findings, folder, console)
    return findings


async def _experiment(scenario: Scenario, stack: Stack, router: str, progress: ShownProgress) -> Findings:
    async def learn(answers: int) -> None:
        progress.start(f"tokamak train --router {router} --deploy", 1)
        await all_feedback_logged(stack, answers)
        await asyncio.to_thread(train, stack, router)
        progress.step()

    try:
        async with gateway_client(stack.base_url, stack.metrics_url) as client:
            return await Experiment(client, scenario.workload, scenario.plan, learn, progress).run()
    except ExceptionGroup as group:
        raise first_error(group) from group


def first_error(group: ExceptionGroup[Exception]) -> Exception:
    """The error that stopped the traffic; the others of a group are its consequences."""
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def show(findings: Findings, folder: Path, console: Console) -> None:
    """Print the table and the verdict; write `findings.json` and `plot.png` into the folder."""
    console.print(report.table(findings))
    helped = findings.verdict().helped
    console.print(report.summary(findings), style="green" if helped else "red", highlight=False)
    rows = orjson.dumps(report.rows(findings), option=orjson.OPT_INDENT_2)
    (folder / "findings.json").write_bytes(rows + b"\n")
    try:
        draw(findings, folder / "plot.png")
        console.print(f"Plot: {folder / 'plot.png'}", highlight=False)
    except PlotUnavailable as reason:
        console.print(f"No plot: {reason}", highlight=False)


@contextmanager
def bars(console: Console) -> Iterator[Bars]:
    """Bars of progress; hidden where the output is not a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bars:
        yield bars


def _escaped(error: Exception) -> str:
    return str(error).replace("[", r"\[")
