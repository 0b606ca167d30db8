"""Judge routers on decisions that were taken by another one: from the traffic log, doubly robust, or not at all.

A verdict is about routers that did not learn from these decisions. Take a later window than the candidate's, or keep a
part by content out of its training (`held_out`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from math import nan
from typing import Literal

import msgspec
import numpy as np

from encoders.features import FEATURE_SET, Features, query_features
from encoders.protocol import Encoder
from offline.left_out import REASONS, why_left_out
from offline.outcomes import content_id, encoded, logged_features, said_values
from routers.cost_scale import CostScale
from routers.evidence.off_policy import (
    F64,
    MIN_EFFECTIVE,
    Estimate,
    Indices,
    LoggedDecisions,
    NotEnoughSupport,
    OffPolicyError,
    bursts,
    check_decisions,
    compare,
    effective_size,
    estimate,
    further_decisions,
    importance,
    outside_support,
    require_support,
)
from routers.evidence.off_policy_rewards import cross_fitted
from routers.evidence.off_policy_targets import most_likely, target_probabilities
from routers.protocol import F32, Outcomes, Router
from routers.rows import positions
from traffic.log import TrafficLog
from traffic.records import Decision, Interaction, ScoreSource

__all__ = [
    "LogDecisions",
    "OffPolicyReport",
    "compare_routers",
    "decisions_from_log",
    "decisions_from_outcomes",
    "held_out",
    "target_probabilities",
]

Verdict = Literal["better", "not worse", "worse", "undecided"]

MARGIN = 0.01
"""What a candidate may lose and still be called not worse: one point of quality."""
MIN_DISAGREEING = 30
"""Least decisions in which the log drew an arm that only one of the two routers takes: what the difference rests on."""
KNOWN_SHARE = 0.95
"""Costs or latencies are compared if at least this share of the decisions knows them."""
SIMULATED_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class LogDecisions:
    """Decisions from a log, and how many interactions were read, used, and left out for which reason."""

    decisions: LoggedDecisions
    counts: dict[str, int]


class OffPolicyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a log says about a candidate router beside a champion.

    `candidate` and `champion` are their mean utilities, `difference` the paired difference: utility = preference *
    quality - (1 - preference) * cost on the champion's cost scale, so at preference 1 it is quality. `quality`,
    `cost_usd` and `latency_s` are differences too; None where not known. `effective` is the smaller effective sample
    size of the two, `disagreeing` the number of decisions in which the log drew an arm that only one of them takes,
    `outside` the largest share of choices that the log never makes. All estimates are None if there is nothing to judge
    by. `needed` is about how many more decisions at this exploration a verdict takes; None if that would not help.
    """

    estimator: str
    verdict: Verdict
    reason: str
    preference: float
    decisions: int
    effective: float
    disagreeing: int
    outside: float
    agreement: float
    candidate: Estimate | None
    champion: Estimate | None
    difference: Estimate | None
    quality: Estimate | None
    cost_usd: Estimate | None
    latency_s: Estimate | None
    needed: int | None


@dataclass(slots=True)
class Collected:
    """What is taken from the log for each usable interaction, in its order."""

    decisions: list[Decision] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    created_at: list[float] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    blocks: list[Features] = field(default_factory=list)
    vectors: list[F32 | None] = field(default_factory=list)

    def add(self, interaction: Interaction, decision: Decision, reward: float, fitting: bool) -> None:
        raw = interaction.vector if fitting else None
        text = interaction.query_text
        content = text if text is not None else raw
        self.decisions.append(decision)
        self.rewards.append(reward)
        self.costs.append(nan if interaction.cost_usd is None else interaction.cost_usd)
        self.latencies.append(nan if interaction.latency_s is None else interaction.latency_s)
        self.ids.append(content_id(content or ""))
        self.created_at.append(interaction.created_at)
        self.texts.append(text)
        block = logged_features(interaction)
        self.blocks.append(query_features("") if block is None else block)
        self.vectors.append(None if raw is None else np.frombuffer(raw, dtype="<f4").astype(np.float32))


def decisions_from_log(
    log: TrafficLog,
    encoder: Encoder,
    since: float = 0.0,
    until: float | None = None,
    *,
    sources: Collection[ScoreSource] | None = None,
    said_until: float | None = None,
) -> LogDecisions:
    """The scored decisions of a log, with the vectors of `encoder` (those logged, else made again from the text).

    `counts` has the keys `read`, `used`, and why the rest was left out: `unanswered`; `pinned` (asked for by name, no
    decision); `unscored`; `fell_back` (another arm answered than was drawn); `cascaded` (which answer was kept depended
    on the answer); `deterministic` (an eligible arm could not be drawn, so nothing is known of it; the judgement is
    then about the traffic that explores); `encoder_mismatch` (another encoder's vector, and no text).

    Raises
    ------
    TrainingError: a score is out of range.
    OffPolicyError: a decision was logged without a propensity.
    """
    said = said_values(log.read_scores(since), log.read_feedback(since), sources, said_until)
    counts = Counter(dict.fromkeys(("read", "used", *LEFT_OUT), 0))
    found = Collected()
    for interaction in log.read_interactions(since, until):
        counts["read"] += 1
        values = said.get(interaction.id)
        reason = _left_out(interaction, values, encoder.hash)
        if reason is not None or values is None or interaction.decision is None:
            counts[reason or "unscored"] += 1
            continue
        counts["used"] += 1
        fitting = interaction.vector is not None and interaction.encoder == encoder.hash
        found.add(interaction, interaction.decision, sum(values) / len(values), fitting)
    return LogDecisions(_assembled(found, encoder), dict(counts))


LEFT_OUT = (*REASONS, "deterministic", "encoder_mismatch")


def _left_out(interaction: Interaction, values: list[float] | None, encoder: str) -> str | None:
    decision, reason = interaction.decision, why_left_out(interaction, values, drawn=True)
    if reason is not None or decision is None:
        return reason
    if any(candidate.eliminated is None and candidate.propensity == 0.0 for candidate in decision.candidates):
        return "deterministic"
    if interaction.encoder == encoder and interaction.vector is not None:
        return None
    return "encoder_mismatch" if interaction.query_text is None else None


def _assembled(found: Collected, encoder: Encoder) -> LoggedDecisions:
    named = {candidate.arm for decision in found.decisions for candidate in decision.candidates}
    arms = tuple(sorted(named | {decision.arm for decision in found.decisions}))
    column = {arm: index for index, arm in enumerate(arms)}
    shape = (len(found.ids), len(arms))
    logging, eligible = np.zeros(shape), np.zeros(shape, dtype=bool)
    for row, decision in enumerate(found.decisions):
        for candidate in decision.candidates:
            if candidate.eliminated is None:
                eligible[row, column[candidate.arm]] = True
                logging[row, column[candidate.arm]] = candidate.propensity
        if not 0.0 < decision.propensity <= 1.0:
            raise OffPolicyError(
                f"decision {decision.id} was logged with propensity {decision.propensity}, expected one in (0, 1]; "
                "read a window without it"
            )
        eligible[row, column[decision.arm]] = True
        logging[row, column[decision.arm]] = decision.propensity
    missing = [row for row, vector in enumerate(found.vectors) if vector is None]
    fresh = encoded(encoder, [found.texts[row] or "" for row in missing])
    for row, vector in zip(missing, fresh, strict=True):
        found.vectors[row] = vector
    vectors = [vector for vector in found.vectors if vector is not None]
    return LoggedDecisions(
        vectors=np.stack(vectors) if vectors else np.zeros((0, encoder.dim), dtype=np.float32),
        features=np.stack(found.blocks) if found.blocks else None,
        texts=tuple(found.texts),
        arms=arms,
        chosen=np.array([column[decision.arm] for decision in found.decisions], dtype=np.intp),
        logging=logging,
        eligible=eligible,
        reward=np.array(found.rewards, dtype=np.float64),
        cost_usd=np.array(found.costs, dtype=np.float64),
        latency_s=np.array(found.latencies, dtype=np.float64),
        encoder=encoder.hash,
        ids=tuple(found.ids),
        created_at=np.array(found.created_at, dtype=np.float64),
        feature_set=FEATURE_SET if found.blocks else None,
    )


def decisions_from_outcomes(outcomes: Outcomes, logging: F64, seed: int = 0, n: int | None = None) -> LoggedDecisions:
    """What a log would hold if a policy had served these queries: one drawn arm each.

    Parameters
    ----------
    outcomes: every arm's answer to every query that `logging` may draw.
    logging: [N, M], the policy's probabilities; each row adds up to 1.
    n: decisions to draw, queries with replacement, one a minute; every query once, in order, if left out.
    """
    if np.any((logging > 0.0) & np.isnan(outcomes.quality)):
        raise OffPolicyError("the logging policy may draw an arm whose answer was not observed; use a full matrix")
    rng = np.random.default_rng(seed)
    size = len(outcomes.query_ids)
    rows = np.arange(size) if n is None else rng.integers(size, size=n)
    chosen = drawn(logging[rows], rng)
    at = (rows, chosen)
    return LoggedDecisions(
        vectors=outcomes.vectors[rows],
        features=None if outcomes.features is None else outcomes.features[rows],
        texts=None if outcomes.texts is None else tuple(outcomes.texts[row] for row in rows.tolist()),
        arms=outcomes.arms,
        chosen=chosen,
        logging=logging[rows],
        eligible=~np.isnan(outcomes.quality[rows]),
        reward=outcomes.quality[at].astype(np.float64),
        cost_usd=outcomes.cost_usd[at].astype(np.float64),
        latency_s=outcomes.latency_s[at].astype(np.float64),
        encoder=outcomes.encoder,
        ids=tuple(outcomes.query_ids[row] for row in rows.tolist()),
        created_at=np.asarray(SIMULATED_PAUSE_S * np.arange(len(rows)), dtype=np.float64),
        feature_set=outcomes.feature_set,
    )


def drawn(probabilities: F64, rng: np.random.Generator) -> Indices:
    """One arm for each row of probabilities [n, M], int [n]."""
    edges = np.cumsum(probabilities, axis=1)
    draws = rng.random((len(edges), 1)) * edges[:, -1:]
    return np.asarray((draws >= edges).sum(axis=1), dtype=np.intp)


def held_out(decisions: LoggedDecisions, share: float, salt: str) -> LoggedDecisions:
    """The decisions on the queries that `routers.rows.split` holds out with the same share and salt."""
    return decisions.rows(positions(decisions.ids, salt) < share)


def compare_routers(
    decisions: LoggedDecisions,
    candidate: Router,
    champion: Router | Literal["logged"],
    *,
    preference: float,
    seed: int = 0,
    margin: float = MARGIN,
) -> OffPolicyReport:
    """Judge a candidate against a champion by what the log says; both as if they chose without exploration.

    `champion` may be "logged": in every decision the arm that was most likely then. The verdict is `better` if the
    whole 95 % interval of the difference lies above 0, `worse` if below, `not worse` if above minus `margin`, else
    `undecided`; so it is too without enough support (see `routers.evidence.off_policy.require_support`) or with fewer
    than 30 decisions that the difference rests on. Deterministic for a seed.

    Raises
    ------
    OffPolicyError: the decisions break their contract, or a router learned from another encoder's vectors.
    """
    for router in (candidate, champion):
        if not isinstance(router, str) and router.encoder != decisions.encoder:
            raise OffPolicyError(
                f"a {router.name} router learned from vectors of encoder {router.encoder}, the decisions have those of "
                f"{decisions.encoder}; read the log with the router's encoder"
            )
    if not decisions.ids:
        reason = "the log holds no scored decision that explored; set `exploration` in the route, and score answers"
        return _nothing(preference, reason)
    check_decisions(decisions)
    scale = candidate.cost_scale if isinstance(champion, str) else champion.cost_scale
    first = target_probabilities(candidate, decisions, preference, cost_scale=scale)
    second = (
        most_likely(decisions)
        if isinstance(champion, str)
        else target_probabilities(champion, decisions, preference, cost_scale=scale)
    )
    return _judged(decisions, first, second, preference, scale, seed, margin)


def _judged(
    decisions: LoggedDecisions,
    first: F64,
    second: F64,
    preference: float,
    scale: CostScale,
    seed: int,
    margin: float,
) -> OffPolicyReport:
    rho = importance(decisions, first), importance(decisions, second)
    agreement = float(np.minimum(first, second).sum(axis=1).mean())
    disagreeing = int(np.count_nonzero((rho[0] != rho[1]) & (rho[0] > 0.0)))
    effective = min(effective_size(weights) for weights in rho)
    groups = bursts(decisions)
    value = utility(decisions, preference, scale)
    try:
        predicted = cross_fitted(decisions, value, seed=seed)
    except OffPolicyError as error:
        return _nothing(preference, str(error), len(decisions.ids))
    difference = compare(decisions, first, second, predicted, value, groups=groups)
    needed = further_decisions(len(decisions.ids), effective)
    try:
        require_support(decisions, first, "the candidate")
        require_support(decisions, second, "the champion")
        verdict, reason = _verdict(difference, 1.0 - agreement, disagreeing, margin)
        if verdict == "undecided":
            needed = _narrower(difference, len(decisions.ids), disagreeing, margin)
    except NotEnoughSupport as refusal:
        verdict, reason, needed = "undecided", str(refusal), refusal.needed
    same = preference == 1.0
    return OffPolicyReport(
        estimator="dr",
        verdict=verdict,
        reason=reason,
        preference=preference,
        decisions=len(decisions.ids),
        effective=effective,
        disagreeing=disagreeing,
        outside=max(outside_support(decisions, target) for target in (first, second)),
        agreement=agreement,
        candidate=estimate("dr", decisions, first, value, predicted, groups=groups),
        champion=estimate("dr", decisions, second, value, predicted, groups=groups),
        difference=difference,
        quality=difference if same else _difference(decisions, first, second, decisions.reward, seed),
        cost_usd=_difference(decisions, first, second, decisions.cost_usd, seed),
        latency_s=_difference(decisions, first, second, decisions.latency_s, seed),
        needed=needed if verdict == "undecided" else 0,
    )


def _verdict(difference: Estimate, disagreement: float, disagreeing: int, margin: float) -> tuple[Verdict, str]:
    told = f"the difference is {difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
    if disagreement <= margin:
        return "not worse", f"both choose the same arm in {1.0 - disagreement:.1%} of the decisions, so {told}"
    if disagreeing < MIN_DISAGREEING:
        return "undecided", (
            f"the log drew the arm that only the candidate takes in {disagreeing} decisions, at least "
            f"{MIN_DISAGREEING} are needed"
        )
    if difference.low > 0.0:
        return "better", told
    if difference.high < 0.0:
        return "worse", told
    if difference.low >= -margin:
        return "not worse", f"{told}, within the margin of {margin:g}"
    return "undecided", f"{told}: it may be a loss of more than the margin of {margin:g}"


def _narrower(difference: Estimate, n: int, disagreeing: int, margin: float) -> int | None:
    """How many more decisions would settle it, if the estimate stays as it is; None if that needs a draw by luck."""
    if disagreeing < MIN_DISAGREEING:
        return None if not disagreeing else round(n * (MIN_DISAGREEING / disagreeing - 1.0))
    half = (difference.high - difference.low) / 2
    gap = max(abs(difference.value), difference.value + margin)
    return round(n * ((half / gap) ** 2 - 1.0)) if gap > 0.0 else None


def utility(decisions: LoggedDecisions, preference: float, scale: CostScale) -> F64:
    """What each logged answer was worth at this preference, float64 [n].

    An unknown cost counts as the dearest known one; if none is known cost plays no part.
    """
    known = ~np.isnan(decisions.cost_usd)
    if preference == 1.0 or not np.any(known):
        return preference * decisions.reward
    costs = np.where(known, decisions.cost_usd, np.max(decisions.cost_usd[known]))
    return preference * decisions.reward - (1.0 - preference) * scale.positions(costs)


def _difference(decisions: LoggedDecisions, first: F64, second: F64, values: F64, seed: int) -> Estimate | None:
    known = ~np.isnan(values)
    if known.mean() < KNOWN_SHARE:
        return None
    part, values = decisions.rows(known), values[known]
    predicted = cross_fitted(part, values, seed=seed)
    return compare(part, first[known], second[known], predicted, values)


def _nothing(preference: float, reason: str, n: int = 0) -> OffPolicyReport:
    return OffPolicyReport(
        estimator="dr",
        verdict="undecided",
        reason=reason,
        preference=preference,
        decisions=n,
        effective=0.0,
        disagreeing=0,
        outside=0.0,
        agreement=0.0,
        candidate=None,
        champion=None,
        difference=None,
        quality=None,
        cost_usd=None,
        latency_s=None,
        needed=MIN_EFFECTIVE if n else None,
    )
