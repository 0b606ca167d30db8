"""Building templates from end to end: choose the answers, say what it takes, build. For the command and for the job."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from encoders.protocol import Encoder
from offline.answers import Answer, answers_from_log
from offline.best_answers import KEEP, STAGE_ONE, Selected, Selection, SolvedQuery, collapse, select_answers
from offline.spending import Spending
from offline.templates.build import BuildReport, build_templates, done_before
from offline.templates.build_estimate import BuildEstimate, estimate_build
from offline.templates.extract import ExtractiveBuilder
from offline.templates.summarize import Summarizer, SummarizerModel
from registry.arms import Pool, Prices
from templates_store.erasure import erased_from
from templates_store.store import BuildRecord, TemplateStore
from templates_store.template import State
from traffic.log import TrafficLog
from traffic.stores import open_log

Told = Callable[[BuildRecord | None], None]


@dataclass(frozen=True, slots=True)
class Writer:
    """The model that writes, its prices and the most that it may cost in USD; the file that keeps the account."""

    model: SummarizerModel
    prices: Prices
    max_usd: float | None = None
    book: Path | None = None


class Build:
    """One build: the questions with their best answers, and who writes. Without a `writer` steps are extracted.

    `selected` is what had a good answer before near duplicates became one.
    """

    def __init__(
        self,
        answers: Iterable[Answer],
        encoder: Encoder,
        *,
        select: Selection = "hybrid",
        writer: Writer | None = None,
        limit: int | None = None,
    ) -> None:
        """Reads all answers. Raises ValueError if there is a cap in USD and no price."""
        keep = STAGE_ONE if writer is None else KEEP
        self.selected: Selected = select_answers(answers, select, keep=keep)
        self.queries: list[SolvedQuery] = collapse(self.selected.queries, encoder, select=select, keep=keep)[:limit]
        self._encoder = encoder
        self._writer = writer
        self.spending = None if writer is None else Spending(writer.prices, writer.max_usd, writer.book)
        self._builder: Summarizer | ExtractiveBuilder = (
            ExtractiveBuilder(self.queries) if writer is None else Summarizer(writer.model, spending=self.spending)
        )

    @property
    def name(self) -> str:
        """The builder, as the templates' provenance names it."""
        return self._builder.name

    def estimate(self, store: TemplateStore | None) -> BuildEstimate:
        """What is left to do in this store (None: there is none yet), and what that takes."""
        done = set[str]() if store is None else done_before(store, self.name)
        todo = [solved for solved in self.queries if solved.key not in done]
        model, prices = (None, Prices()) if self._writer is None else (self._writer.model, self._writer.prices)
        return estimate_build(todo, len(self.queries) - len(todo), model, prices)

    async def run(self, store: TemplateStore, *, state: State, concurrency: int, told: Told) -> BuildReport:
        """Build what is left to do. What is done is in the store before it is told."""
        if isinstance(self._builder, ExtractiveBuilder):
            return await build_templates(
                store, self.queries, self._builder, self._encoder, concurrency=1, state=state, on_progress=told
            )
        async with self._builder as summarizer:
            return await build_templates(
                store, self.queries, summarizer, self._encoder, concurrency=concurrency, state=state, on_progress=told
            )

    def outcomes(self, store: TemplateStore) -> dict[str, int]:
        """What has become of the questions, in this run or in an earlier one."""
        records = store.builds(self.name)
        found = [records[solved.key].outcome for solved in self.queries if solved.key in records]
        counts = {outcome: found.count(outcome) for outcome in ("built", "rejected", "failed")}
        return counts | {"missing": len(self.queries) - len(found)}

    def unsolved(self) -> str | None:
        """What had no good answer, in one sentence; None if everything had one."""
        if not self.selected.unsolved:
            return None
        tasks = self.selected.unsolved_tasks
        bare = f"; no question at all has one in: {', '.join(tasks)}" if tasks else ""
        return f"{self.selected.unsolved} questions have no answer that is known to be good{bare}"


async def logged_answers(
    url: str,
    store: TemplateStore | None,
    *,
    since: float = 0.0,
    until: float | None = None,
    shared: bool = False,
    shared_workloads: Iterable[str] = (),
) -> list[Answer]:
    """The answers of a traffic log that may be used, without those of what was erased from the store."""
    log: TrafficLog = open_log(url)
    try:
        return list(
            answers_from_log(
                log, since=since, until=until, shared=shared, shared_workloads=tuple(shared_workloads),
                erased=(lambda interaction: False) if store is None else erased_from(store),
            )
        )  # fmt: skip
    finally:
        await log.close()


def writer_of(pool: Pool, name: str, max_usd: float | None, book: Path | None = None) -> Writer:
    """A model of the pool as a writer, asked at its first endpoint. Raises ValueError if there is no such model."""
    model = pool.models.get(name)
    if model is None:
        raise ValueError(f"no model is called {name!r}; there are: {', '.join(pool.models)}")
    endpoint = model.endpoints[0]
    asked = SummarizerModel(
        endpoint.upstream.base_url, endpoint.model, endpoint.upstream.api_key, headers=endpoint.upstream.headers,
        timeout_s=endpoint.upstream.total_timeout_s, unlogged=False, name=name,
    )  # fmt: skip
    return Writer(asked, model.prices, max_usd, book)
