"""What the traffic log says about templates: requests of a model that were dealt to having them or not.

A request that was found a template of (nearly) its own question says what that template does for this question, and
nothing about others. It is left out, as everywhere offline (fusionfactory.md 3.3): by the similarity in the log, and by
the questions that the template was made from, which also finds those that were changed when the template was scrubbed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Set
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from offline.answers import question_key
from offline.best_answers import NEAR_DUPLICATE
from offline.left_out import REASONS, why_left_out
from offline.outcomes import content_id, said_values
from routers.evidence.off_policy import F64
from routers.evidence.uplift import Trials
from templates_store.store import TemplateStore
from traffic.log import TrafficLog
from traffic.records import Candidate, Decision, Interaction, ScoreSource

Indices = NDArray[np.intp]

QuestionsOf = Callable[[str], Set[str]]
"""Gives the questions that a template was made from, by its id: `Template.query_keys`."""

LEFT_OUT = ("no_templates", *REASONS, "other_arm", "no_chance", "near_duplicate")


@dataclass(frozen=True, slots=True)
class LoggedTrials:
    """n requests in the order in which their scores became known, and the k templates that they did or would show.

    Attributes
    ----------
    trials: the n requests; `trials.group` indexes `models`.
    created_at: float64 [n], Unix time of the request.
    queries: n content ids; they repeat where a query does.
    encoders: n hashes of the encoders of the similarities.
    templates: the ids of J templates.
    request, template: int [k], pairs of a request and one of its templates.
    similarity: float64 [k].
    counts: how many interactions were read, used, and left out for which reason.
    """

    trials: Trials
    models: tuple[str, ...]
    created_at: F64
    queries: tuple[str, ...]
    encoders: tuple[str | None, ...]
    templates: tuple[str, ...]
    request: Indices
    template: Indices
    similarity: F64
    counts: dict[str, int]


@dataclass(slots=True)
class _Row:
    known_at: float
    interaction: Interaction
    shown: bool
    chance: float
    score: float
    with_it: float
    without: float


@dataclass(slots=True)
class _Named:
    places: dict[str, int] = field(default_factory=dict)

    def place(self, name: str) -> int:
        return self.places.setdefault(name, len(self.places))


def trials_from_log(
    log: TrafficLog,
    since: float = 0.0,
    until: float | None = None,
    *,
    sources: Collection[ScoreSource] | None = None,
    made_from: QuestionsOf = lambda _: frozenset(),
) -> LoggedTrials:
    """The scored requests for which templates were found, and whose model could be asked with them or without.

    Whether it was is a draw with a known chance: by the control share, by exploration, or both. `counts` has the keys
    `read`, `used`, and why the rest was left out: `no_templates`; `unanswered`; `pinned` (no decision); `unscored`;
    `fell_back` (another arm answered than was drawn); `cascaded`; `other_arm` (asked in a third way); `no_chance` (one
    of the two was certain); `near_duplicate` (one of its templates was made from this question, or found with a
    similarity of 0.97 or more).

    Raises
    ------
    TrainingError: a score is out of range.
    """
    scores, feedback = list(log.read_scores(since)), list(log.read_feedback(since))
    said = said_values(scores, feedback, sources)
    known_at: dict[str, float] = {}
    stated = [(score.interaction_id, score.created_at) for score in scores]
    stated += [(statement.interaction_id, statement.created_at) for statement in feedback]
    for id_, at in stated:
        known_at[id_] = max(known_at.get(id_, 0.0), at)
    counts = Counter(dict.fromkeys(("read", "used", *LEFT_OUT), 0))
    rows: list[_Row] = []
    for interaction in log.read_interactions(since, until):
        counts["read"] += 1
        found = _row(interaction, said.get(interaction.id), known_at.get(interaction.id, 0.0), made_from)
        if isinstance(found, str):
            counts[found] += 1
        else:
            counts["used"] += 1
            rows.append(found)
    # A score that comes late is appended, never put in between: what was known at an earlier look stays as it was.
    rows.sort(key=lambda row: (row.known_at, row.interaction.id))
    return _assembled(rows, dict(counts))


def questions_of(store: TemplateStore) -> QuestionsOf:
    """Looks up the questions that a template was made from; of one that is gone none is known."""
    known: dict[str, frozenset[str]] = {}

    def look(template: str) -> frozenset[str]:
        if template not in known:
            found = store.get(template)
            known[template] = frozenset() if found is None else frozenset(found.query_keys)
        return known[template]

    return look


def _own(interaction: Interaction, made_from: QuestionsOf) -> bool:
    """Whether a template was found that was made from this question, or from one that is nearly the same."""
    if any(similarity >= NEAR_DUPLICATE for _, similarity in interaction.retrieved):
        return True
    text = interaction.query_text
    keys = {question_key(text, tenant) for tenant in (None, interaction.key_id)} if text else set[str]()
    return any(keys & made_from(id_) for id_, _ in interaction.retrieved)


def _row(interaction: Interaction, said: list[float] | None, known_at: float, made_from: QuestionsOf) -> _Row | str:
    """The request as a trial, or why it is none."""
    decision, model = interaction.decision, interaction.model
    if not interaction.retrieved:
        return "no_templates"
    if model is None:
        return "unanswered"
    reason = why_left_out(interaction, said, drawn=True)
    if reason is not None or decision is None or said is None:
        return reason or "unscored"
    thought = f"{model}#thought"
    shown = interaction.arm == thought
    expected = tuple(id_ for id_, _ in interaction.retrieved) if shown else ()
    if interaction.arm not in (thought, model) or interaction.template_ids != expected:
        return "other_arm"
    with_it, without = _candidate(decision, thought), _candidate(decision, model)
    if with_it is None or without is None or not (with_it.propensity > 0.0 and without.propensity > 0.0):
        return "no_chance"
    if _own(interaction, made_from):
        return "near_duplicate"
    quality = _quality(with_it, without), _quality(without, with_it)
    chance = with_it.propensity / (with_it.propensity + without.propensity)
    return _Row(known_at, interaction, shown, chance, sum(said) / len(said), *quality)


def _candidate(decision: Decision, arm: str) -> Candidate | None:
    return next((candidate for candidate in decision.candidates if candidate.arm == arm), None)


def _quality(candidate: Candidate, other: Candidate) -> float:
    """What was predicted then; of the other way of asking, or one half, where nothing was."""
    known = [each.quality for each in (candidate, other) if each.quality is not None]
    return float(np.clip(known[0], 0.0, 1.0)) if known else 0.5


def _assembled(rows: list[_Row], counts: dict[str, int]) -> LoggedTrials:
    models, templates = _Named(), _Named()
    request, template, similarity = list[int](), list[int](), list[float]()
    for number, row in enumerate(rows):
        for id_, near in row.interaction.retrieved:
            request.append(number)
            template.append(templates.place(id_))
            similarity.append(near)
    trials = Trials(
        shown=np.array([row.shown for row in rows], dtype=np.bool_),
        chance=np.array([row.chance for row in rows], dtype=np.float64),
        score=np.array([row.score for row in rows], dtype=np.float64),
        with_it=np.array([row.with_it for row in rows], dtype=np.float64),
        without=np.array([row.without for row in rows], dtype=np.float64),
        group=np.array([models.place(str(row.interaction.model)) for row in rows], dtype=np.intp),
    )
    return LoggedTrials(
        trials=trials,
        models=tuple(models.places),
        created_at=np.array([row.interaction.created_at for row in rows], dtype=np.float64),
        queries=tuple(content_id(row.interaction.query_text or row.interaction.id) for row in rows),
        encoders=tuple(row.interaction.encoder for row in rows),
        templates=tuple(templates.places),
        request=np.array(request, dtype=np.intp),
        template=np.array(template, dtype=np.intp),
        similarity=np.array(similarity, dtype=np.float64),
        counts=counts,
    )
