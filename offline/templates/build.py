"""Builds thought templates from solved queries: one builder, many queries, each remembered as soon as it is done.

What was built or rejected before by the same builder is skipped, so an interrupted build goes on where it stopped; what
failed (the model was away) is tried again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from encoders.protocol import Encoder
from offline.best_answers import SolvedQuery
from offline.spending import CapReached
from offline.templates.known_templates import KnownTemplates
from offline.templates.summarize import BuilderFailed
from offline.templates.text import TextRejected
from templates_store.create import TemplateRejected, create_template
from templates_store.store import BuildRecord, TemplateStore
from templates_store.template import State, Template

FAILURES_IN_A_ROW = 8
"""After so many failures with no success between them, the builder is taken to be down and the build stops."""


class Builder(Protocol):
    """Writes the text of a template. `name` goes into its provenance and holds the version of how it is written."""

    name: str

    async def write(self, solved: SolvedQuery) -> str:
        """A valid text.

        Raises TextRejected (no template can be made of it), BuilderFailed (try again later) or CapReached (no money).
        """


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did: queries `built`, `rejected`, `failed` in this run; `skipped` were done before."""

    built: int
    rejected: int
    failed: int
    skipped: int
    reasons: tuple[tuple[str, int], ...]
    """Why queries were rejected or failed, without the particulars in brackets, most frequent first."""
    stopped: str | None = None
    """Why the build stopped before its end, if it did."""
    capped: bool = False
    """Whether it stopped because its cap in USD was reached."""


async def build_templates(
    store: TemplateStore,
    queries: Sequence[SolvedQuery],
    builder: Builder,
    encoder: Encoder,
    *,
    concurrency: int = 4,
    state: State = "active",
    on_progress: Callable[[BuildRecord | None], None] = lambda record: None,
) -> BuildReport:
    """Build a template for each query that this builder has not done yet, at most `concurrency` at the same time.

    `on_progress` is called once per query, with None for one that was skipped. The store holds every result before the
    call; stopping the build at any point loses nothing that was reported.
    """
    done = done_before(store, builder.name)
    todo = [solved for solved in queries if solved.key not in done]
    for _ in range(len(queries) - len(todo)):
        on_progress(None)
    known = KnownTemplates(store.templates(), encoder)
    tally = _Tally()
    waiting: Iterator[SolvedQuery] = iter(todo)

    async def work() -> None:
        for solved in waiting:
            try:
                record, template = await _build_one(solved, builder, encoder, known, state)
            except CapReached as reached:
                tally.stopped, tally.capped = str(reached), True
                return
            # What is in brackets may be a part of what somebody asked; it is told now and not kept.
            store.record_build(builder.name, record._replace(detail=_bare(record.detail)), template)
            if template is not None:
                known.add(template)
            tally.count(record)
            on_progress(record)
            if tally.stopped is not None:
                return

    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(max(1, min(concurrency, len(todo)))):
                workers.create_task(work())
    except BaseExceptionGroup as group:
        # One worker's error, such as a job that was cancelled, is the build's.
        raise group.exceptions[0] from None
    return tally.report(len(queries) - len(todo))


def done_before(store: TemplateStore, builder: str) -> set[str]:
    """Keys of the questions that this builder has nothing more to do for."""
    return {key for key, record in store.builds(builder).items() if record.outcome != "failed"}


class _Tally:
    """What has become of the questions so far."""

    def __init__(self) -> None:
        self.stopped: str | None = None
        self.capped = False
        self._outcomes: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._in_a_row = 0

    def count(self, record: BuildRecord) -> None:
        self._outcomes[record.outcome] += 1
        failed = record.outcome == "failed"
        if record.outcome != "built":
            self._reasons[record.detail if failed else _bare(record.detail)] += 1
        self._in_a_row = self._in_a_row + 1 if failed else 0
        if self._in_a_row >= FAILURES_IN_A_ROW:
            self.stopped = f"{self._in_a_row} failures in a row, the last: {record.detail}"

    def report(self, skipped: int) -> BuildReport:
        return BuildReport(
            built=self._outcomes["built"], rejected=self._outcomes["rejected"], failed=self._outcomes["failed"],
            skipped=skipped, reasons=tuple(self._reasons.most_common()), stopped=self.stopped, capped=self.capped,
        )  # fmt: skip


def _bare(detail: str) -> str:
    """A reason without its particulars, which stand in brackets."""
    return detail.split(" (", 1)[0]


async def _build_one(
    solved: SolvedQuery, builder: Builder, encoder: Encoder, known: KnownTemplates, state: State
) -> tuple[BuildRecord, Template | None]:
    try:
        text = await builder.write(solved)
        template = create_template(
            encoder, solved.query, text, builder=builder.name, state=state, tenant=solved.tenant, task=solved.task,
            source_models=tuple(dict.fromkeys(answer.model for answer in solved.answers)),
            interactions=[answer.id for answer in solved.answers],
            query_keys=tuple(dict.fromkeys((solved.key, *(answer.query_key for answer in solved.answers)))),
        )  # fmt: skip
    except (TextRejected, TemplateRejected) as reason:
        return BuildRecord(solved.key, "rejected", str(reason)), None
    except BuilderFailed as reason:
        return BuildRecord(solved.key, "failed", str(reason)), None
    twin = known.near_question(template)
    if twin is not None:
        return BuildRecord(solved.key, "rejected", f"template {twin} is for nearly the same question"), None
    same = known.same_text(template)
    if same is not None:
        return BuildRecord(solved.key, "rejected", f"template {same} says nearly the same"), None
    return BuildRecord(solved.key, "built", template.id), template
