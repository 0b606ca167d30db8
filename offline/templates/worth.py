"""What each template is worth, from the traffic log; and those that do harm taken out of use.

A request says the same about each template that it showed: what the model scored with all of them against what it
scores without. What the others are expected to do, by what was seen before (`routers.evidence.shared_credit`), is taken
off; the rest is the template's own uplift, with its interval. A template is quarantined when that lies below zero.
Among those shown together the one with the worst part goes first, and the others are judged anew without the requests
it was in, so that a harmless one is not blamed for its company. The price: harm that only a combination does is put
down to one of its members; and as long as little is known of the others, a template answers for its company too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from offline.templates.trials import LoggedTrials
from routers.estimators.kmeans import centroids
from routers.evidence.off_policy import F64, Estimate, LoggedDecisions, compare
from routers.evidence.shared_credit import Shown, parts
from routers.evidence.uplift import ALPHA, Moments, Uplift, evidence, moments, uplift
from templates_store.store import TemplateStore
from templates_store.template import Template, Worth
from templates_store.worth import fresh_starts

Mask = NDArray[np.bool_]

HALF_LIFE_S = 30 * 86_400.0
"""Age at which a request counts half for what a template is expected to be worth."""
LEAST_SHOWN, LEAST_CONTROL = 20, 5
"""With fewer requests of either kind no uplift is stated."""
FIRST = 1024
"""The first requests, in which nothing is expected of a template's company."""
CLUSTER_SIZE = 20
"""About so many templates without a task make a cluster."""
BY = "worth"


class TemplateRow(msgspec.Struct, frozen=True, kw_only=True):
    """A template with its worth; `quarantined`: it is found to do harm."""

    id: str
    cluster: str
    worth: Worth
    quarantined: bool


class GroupRow(msgspec.Struct, frozen=True, kw_only=True):
    """The uplift of a cluster of templates or of an arm. The interval holds at every look.

    `estimate` is that of an arm by the doubly robust estimator of `routers.evidence.off_policy`, with a 95 % interval
    for one look; None for a cluster.
    """

    name: str
    shown: int
    control: int
    uplift: float | None
    low: float
    high: float
    estimate: Estimate | None = None


class WorthReport(msgspec.Struct, frozen=True, kw_only=True):
    """What templates were seen to do: by template (worst first), by cluster, by arm; and what the log held."""

    templates: list[TemplateRow]
    clusters: list[GroupRow]
    arms: list[GroupRow]
    counts: dict[str, int]

    @property
    def quarantined(self) -> list[TemplateRow]:
        return [row for row in self.templates if row.quarantined]


@dataclass(slots=True)
class _Ledger:
    """The pairs of requests and templates that still count."""

    logged: LoggedTrials
    found: Moments
    counts: Mask
    pairs: list[NDArray[np.intp]]
    """The pairs of each template."""
    others: F64
    """For each pair what the others in its request are expected to do, from earlier requests."""

    def requests(self, template: int) -> NDArray[np.intp]:
        """The requests that speak about a template, oldest first."""
        mine = self.pairs[template]
        return np.unique(self.logged.request[mine[self.counts[mine]]])

    def uplift(self, requests: NDArray[np.intp]) -> Uplift:
        return uplift(self.found.h[requests], self.found.w[requests])

    def own(self, template: int) -> tuple[F64, F64]:
        """`h` and `w` of a template's requests, less what its company is expected to do."""
        mine = self.pairs[template][self.counts[self.pairs[template]]]
        rows = self.logged.request[mine]
        return self.found.h[rows] - self.found.w[rows] * self.others[mine], self.found.w[rows]

    def harms(self, template: int) -> bool:
        h, w = self.own(template)
        return len(h) > 0 and evidence(-h, w) >= math.log(2.0 / ALPHA)

    def drop(self, template: int) -> None:
        """Leave out every request that a template was in."""
        self.counts &= ~np.isin(self.logged.request, self.requests(template))


def measure(
    logged: LoggedTrials,
    templates: Mapping[str, Template],
    starts: Mapping[str, float] | None = None,
    now: float | None = None,
) -> WorthReport:
    """What the templates of the log are worth. Changes nothing.

    Parameters
    ----------
    templates: those of the log that still exist, by id. Requests with one that is not in use any more say nothing about
        the others, and nothing is said about it.
    starts: from when on what a template did counts, by id.
    now: Unix time that ages are counted from.
    """
    now = time.time() if now is None else now
    found = moments(logged.trials)
    used = np.array([_in_use(templates.get(id_)) for id_ in logged.templates], dtype=np.bool_)
    counts = ~np.isin(logged.request, logged.request[~used[logged.template]])
    since = np.array([(starts or {}).get(id_, 0.0) for id_ in logged.templates])
    counts &= logged.created_at[logged.request] >= since[logged.template]
    order = np.argsort(logged.template, kind="stable")
    edges = np.searchsorted(logged.template[order], np.arange(1, len(logged.templates)))
    names, cluster = _clusters([templates.get(id_) for id_ in logged.templates])
    ledger = _Ledger(logged, found, counts, np.split(order, edges), _others(logged, found, cluster))
    weight = 0.5 ** (np.maximum(now - logged.created_at, 0.0) / HALF_LIFE_S)
    shown = Shown(logged.request[counts], logged.template[counts], cluster)
    expected = parts(found.h, found.w, shown, weight).items if counts.any() else np.zeros(len(logged.templates))
    clusters = [_group(ledger, name, counts & (cluster[logged.template] == at)) for at, name in enumerate(names)]
    harmful = _harmful(ledger, expected)
    left = np.unique(logged.template[ledger.counts]).tolist()
    said = {place: (ledger.requests(place), *ledger.own(place)) for place in left} | harmful
    rows = [
        TemplateRow(
            id=logged.templates[place],
            cluster=names[cluster[place]],
            worth=_worth(ledger, *own, float(expected[place]), now),
            quarantined=place in harmful,
        )
        for place, own in said.items()
    ]
    return WorthReport(
        templates=sorted(rows, key=lambda row: (not row.quarantined, row.worth.expected or 0.0, row.id)),
        clusters=[group for group in clusters if group.shown + group.control],
        arms=[_arm(ledger, at) for at in range(len(logged.models))],
        counts=logged.counts,
    )


def apply(store: TemplateStore, report: WorthReport, *, quarantine: bool = True) -> list[str]:
    """Write the worth of templates to the store and take the harmful ones out of use; returns the ids of these.

    Raises
    ------
    TemplateStoreError: the store cannot be written.
    """
    known = store.get_many([row.id for row in report.templates])
    store.set_worth({row.id: row.worth for row in report.templates if row.id in known})
    harmful = [row for row in report.quarantined if quarantine and _in_use(known.get(row.id))]
    for row in harmful:
        store.set_state(row.id, "quarantined", reason_of(row))
    return [row.id for row in harmful]


def measured(store: TemplateStore, logged: LoggedTrials, now: float | None = None) -> WorthReport:
    """`measure` with what the store says of the templates."""
    return measure(logged, store.get_many(logged.templates), fresh_starts(store), now)


def reason_of(row: TemplateRow) -> str:
    """Why a template is quarantined, for its history."""
    worth = row.worth
    return (
        f"{BY}: changes the score by {worth.uplift or 0.0:+.3f} [{worth.low or -1.0:+.3f}, {worth.high or 0.0:+.3f}], "
        f"{worth.shown} requests with it and {worth.control} without"
    )


def _in_use(template: Template | None) -> bool:
    return template is not None and template.state in ("active", "candidate")


def _others(logged: LoggedTrials, found: Moments, cluster: NDArray[np.intp]) -> F64:
    """Of each pair the expected uplift of the other templates in its request, in [-1, 1].

    Known only from requests before: those up to the last power of two, so that what was taken off stays what it was.
    """
    others = np.zeros(len(logged.request))
    start = FIRST
    while start < len(found.h):
        before, here = logged.request < start, (logged.request >= start) & (logged.request < 2 * start)
        own = parts(
            found.h[:start], found.w[:start], Shown(logged.request[before], logged.template[before], cluster)
        ).items
        request, mine = logged.request[here], own[logged.template[here]]
        total = np.bincount(request, mine, minlength=len(found.h))
        others[here] = np.clip(total[request] - mine, -1.0, 1.0)
        start *= 2
    return others


def _harmful(ledger: _Ledger, expected: F64) -> dict[int, tuple[NDArray[np.intp], F64, F64]]:
    """The templates that do harm, the worst first, with the requests that say so, which leave the ledger, and what they
    say (`h` and `w`)."""
    suspects = [place for place in np.unique(ledger.logged.template[ledger.counts]).tolist() if ledger.harms(place)]
    found: dict[int, tuple[NDArray[np.intp], F64, F64]] = {}
    while suspects:
        worst = min(suspects, key=lambda place: (expected[place], place))
        found[worst] = (ledger.requests(worst), *ledger.own(worst))
        ledger.drop(worst)
        suspects = [place for place in suspects if place != worst and ledger.harms(place)]
    return found


def _worth(ledger: _Ledger, rows: NDArray[np.intp], h: F64, w: F64, expected: float, now: float) -> Worth:
    trials = ledger.logged.trials
    with_it = rows[trials.shown[rows]]
    gained = trials.score[with_it] - ledger.found.without[with_it]
    known = len(with_it) >= LEAST_SHOWN and len(rows) - len(with_it) >= LEAST_CONTROL
    found = uplift(h, w) if known else None
    return Worth(
        shown=len(with_it),
        control=len(rows) - len(with_it),
        wins=int((gained > 0.0).sum()),
        losses=int((gained < 0.0).sum()),
        uplift=None if found is None else found.estimate,
        low=None if found is None else found.low,
        high=None if found is None else found.high,
        updated_at=now,
        expected=expected,
    )


def _group(ledger: _Ledger, name: str, pairs: Mask) -> GroupRow:
    rows = np.unique(ledger.logged.request[pairs])
    shown = int(ledger.logged.trials.shown[rows].sum())
    found = ledger.uplift(rows)
    return GroupRow(
        name=name, shown=shown, control=len(rows) - shown, low=found.low, high=found.high,
        uplift=None if math.isnan(found.estimate) else found.estimate,
    )  # fmt: skip


def _arm(ledger: _Ledger, model: int) -> GroupRow:
    """All requests of one model, whatever became of their templates since."""
    logged = ledger.logged
    rows = np.flatnonzero(logged.trials.group == model)
    pairs = np.isin(logged.request, rows)
    found = _group(ledger, f"{logged.models[model]}#thought", pairs)
    if not found.shown or not found.control:
        return found
    decisions = _decisions(logged, rows, found.name)
    predicted = np.stack([ledger.found.without[rows], ledger.found.with_it[rows]], axis=1)
    never, always = (np.tile(target, (len(rows), 1)) for target in ((1.0, 0.0), (0.0, 1.0)))
    return msgspec.structs.replace(found, estimate=compare(decisions, always, never, predicted))


def _decisions(logged: LoggedTrials, rows: NDArray[np.intp], arm: str) -> LoggedDecisions:
    """The requests of a model as decisions between asking it without templates and with them."""
    trials, nan = logged.trials, np.full(len(rows), np.nan)
    chance = trials.chance[rows]
    return LoggedDecisions(
        vectors=np.zeros((len(rows), 1), dtype=np.float32), features=None, texts=None,
        arms=(arm.partition("#")[0], arm), chosen=trials.shown[rows].astype(np.intp),
        logging=np.stack([1.0 - chance, chance], axis=1), eligible=np.ones((len(rows), 2), dtype=np.bool_),
        reward=trials.score[rows], cost_usd=nan, latency_s=nan, encoder="",
        ids=tuple(logged.queries[row] for row in rows.tolist()), created_at=logged.created_at[rows],
    )  # fmt: skip


def _clusters(templates: list[Template | None]) -> tuple[list[str], NDArray[np.intp]]:
    """The names of the clusters and the cluster [J] of each template: its task, else others of similar questions."""
    names: dict[str, int] = {}
    cluster = np.zeros(len(templates), dtype=np.intp)
    loose: dict[tuple[str, int], list[int]] = {}
    for place, template in enumerate(templates):
        if template is None or template.task is not None:
            name = "gone" if template is None else str(template.task)
            cluster[place] = names.setdefault(name, len(names))
        else:
            loose.setdefault((template.encoder, len(template.vector)), []).append(place)
    for places in loose.values():
        vectors = np.stack(
            [np.frombuffer(made.vector, "<f4") for place in places if (made := templates[place]) is not None]
        ).astype(np.float32)
        centers = centroids(vectors, max(1, len(places) // CLUSTER_SIZE), seed=0)
        nearest = np.argmax(vectors @ centers.T, axis=1)
        for place, at in zip(places, nearest.tolist(), strict=True):
            name = f"questions like {' '.join(_query(templates, places, nearest, at).split())[:50]!r}"
            cluster[place] = names.setdefault(name, len(names))
    return list(names), cluster


def _query(templates: list[Template | None], places: list[int], nearest: NDArray[np.intp], at: int) -> str:
    first = templates[places[int(np.argmax(nearest == at))]]
    return "" if first is None else first.query
