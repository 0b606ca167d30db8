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

import numpy as np

from encoders.protocol import Encoder, Vectors
from offline.best_answers import NEAR_DUPLICATE, SolvedQuery
from offline.summarize import BuilderFailed
from offline.template_text import TextRejected
from templates_store.create import TemplateRejected, create_template
from templates_store.store import BuildRecord, TemplateStore
from templates_store.template import State, Template

FAILURES_IN_A_ROW = 8
"""After so many failures with no success between them, the builder is taken to be down and the build stops."""


class Builder(Protocol):
    """Writes the text of a template. `name` goes into its provenance and holds the version of how it is written."""

    name: str

    async def write(self, solved: SolvedQuery) -> str:
        """A valid text. Raises TextRejected (no template can be made of it) or BuilderFailed (try again later)."""


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


class KnownQueries:
    """The vectors of the queries that have a template, to find near duplicates among what one tenant can see."""

    def __init__(self, templates: Sequence[Template], encoder: Encoder) -> None:
        self._dim = encoder.dim
        self._ids: dict[str | None, list[str]] = {}
        self._vectors: dict[str | None, Vectors] = {}
        for template in templates:
            if template.encoder == encoder.hash and template.state != "retired":
                self.add(template)

    def add(self, template: Template) -> None:
        ids = self._ids.setdefault(template.tenant, [])
        vectors = self._vectors.get(template.tenant)
        if vectors is None or len(vectors) == len(ids):
            grown = np.zeros((max(64, 2 * len(ids)), self._dim), dtype=np.float32)
            if vectors is not None:
                grown[: len(ids)] = vectors
            self._vectors[template.tenant] = vectors = grown
        vectors[len(ids)] = np.frombuffer(template.vector, dtype="<f4")
        ids.append(template.id)

    def near(self, template: Template) -> str | None:
        """The id of a known template that is a near duplicate and that the same tenant sees, or None."""
        vector = np.frombuffer(template.vector, dtype="<f4")
        for tenant in {None, template.tenant}:
            ids = self._ids.get(tenant)
            if not ids:
                continue
            similarities = self._vectors[tenant][: len(ids)] @ vector
            best = int(similarities.argmax())
            if similarities[best] >= NEAR_DUPLICATE:
                return ids[best]
        return None


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
    done = {key for key, record in store.builds(builder.name).items() if record.outcome != "failed"}
    todo = [solved for solved in queries if solved.key not in done]
    for _ in range(len(queries) - len(todo)):
        on_progress(None)
    known = KnownQueries(store.templates(), encoder)
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    in_a_row = 0
    stopped: str | None = None
    waiting: Iterator[SolvedQuery] = iter(todo)

    async def work() -> None:
        nonlocal in_a_row, stopped
        for solved in waiting:
            record, template = await _build_one(solved, builder, encoder, known, state)
            store.record_build(builder.name, record, template)
            if template is not None:
                known.add(template)
            outcomes[record.outcome] += 1
            if record.outcome != "built":
                reasons[record.detail.split(" (", 1)[0]] += 1
            in_a_row = in_a_row + 1 if record.outcome == "failed" else 0
            on_progress(record)
            if in_a_row >= FAILURES_IN_A_ROW:
                stopped = f"{in_a_row} failures in a row, the last: {record.detail}"
            if stopped is not None:
                return

    async with asyncio.TaskGroup() as workers:
        for _ in range(max(1, min(concurrency, len(todo)))):
            workers.create_task(work())
    return BuildReport(
        built=outcomes["built"], rejected=outcomes["rejected"], failed=outcomes["failed"],
        skipped=len(queries) - len(todo), reasons=tuple(reasons.most_common()), stopped=stopped,
    )  # fmt: skip


async def _build_one(
    solved: SolvedQuery, builder: Builder, encoder: Encoder, known: KnownQueries, state: State
) -> tuple[BuildRecord, Template | None]:
    try:
        text = await builder.write(solved)
        template = create_template(
            encoder, solved.query, text, builder=builder.name, state=state, tenant=solved.tenant, task=solved.task,
            source_models=tuple(dict.fromkeys(answer.model for answer in solved.answers)),
            interactions=[answer.id for answer in solved.answers],
        )  # fmt: skip
    except (TextRejected, TemplateRejected) as reason:
        return BuildRecord(solved.key, "rejected", str(reason)), None
    except BuilderFailed as reason:
        return BuildRecord(solved.key, "failed", str(reason)), None
    twin = known.near(template)
    if twin is not None:
        return BuildRecord(solved.key, "rejected", f"template {twin} is for nearly the same question"), None
    return BuildRecord(solved.key, "built", template.id), template
