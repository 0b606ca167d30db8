"""Why an arm was chosen: the decision's record, the `route` object of `routing.explain`, the response headers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec

from registry.arms import Arm
from registry.config import CascadeConfig
from routers.policy.cascade import Escalations
from routers.policy.control import Control, as_asked, asked
from routers.policy.decide import Choice, explain
from routers.protocol import Prediction
from service.exchange import Exchange
from service.serving import Serving
from service.weighing import Weighing
from templates_store.choosing import Selection
from traffic.records import Affinity, Candidate, Cascade, Decision

SCHEMA = b"1"
CONTROL = "withheld: a control request"
NOTHING_LIVE: Mapping[str, Mapping[str, float | None]] = MappingProxyType({})


@dataclass(slots=True)
class CascadePlan:
    """Which arm answers `first` and which `then`, by index, and what became of it. `value`: the signal, once known."""

    config: CascadeConfig
    first: int
    then: int
    escalations: Escalations
    value: float | None = None
    escalated: bool = False

    @property
    def least(self) -> float:
        """The least signal of an answer that is good enough."""
        return self.config.threshold if self.config.signal == "logprob" else 1.0


@dataclass(slots=True)
class Decided:
    """A decision before it is written down: writing it down costs more than taking it, and is done after the answer.

    `affinity`: whether the conversation's last arm counted. `win` and `threshold` belong to a choice by odds.
    """

    id: str
    route: str
    serving: Serving
    preference: float
    exploration: float
    choice: Choice
    prediction: Prediction
    eliminated: dict[int, str]
    weighing: Weighing
    affinity: bool = False
    win: float | None = None
    threshold: float | None = None
    cascade: CascadePlan | None = None
    control: Control | None = None

    @property
    def withheld_from(self) -> str | None:
        """The `thought` arm that was drawn, if its model is asked without templates as a control."""
        return self.serving.arm_ids[self.choice.chosen] if self.control is not None and self.control.withheld else None

    def ranking(self) -> list[Arm]:
        ranking = list(map(self.serving.arms.__getitem__, self.choice.order))
        if self.control is None or not self.control.withheld:
            return ranking
        # If the model fails, the same model with a longer prompt is the last to help.
        twin, drawn = self.control.twins[self.choice.chosen], ranking[0]
        return [twin, *(arm for arm in ranking[1:] if arm.id != twin.id), drawn]

    def record(self) -> Decision:
        choice, ids = self.choice, self.serving.arm_ids
        drawn, withheld_from = ids[choice.chosen], self.withheld_from
        if self.control is None:
            arm, propensity = drawn, choice.propensity[choice.chosen]
            candidates = explain(choice, self.prediction, ids, self.eliminated)
        else:
            chances = asked(choice, ids, self.control)
            arm = drawn if withheld_from is None else self.control.twins[choice.chosen].id
            propensity = chances[arm]
            candidates = explain(choice, self.prediction, ids, self.eliminated, chances)
            if len(chances) > len(choice.order):
                candidates = as_asked(candidates, chances)
        return Decision(
            id=self.id, route=self.route, router=self.serving.router, encoder=self.serving.encoder.hash,
            preference=self.preference, exploration=self.exploration, arm=arm,
            propensity=propensity, explored=choice.explored, candidates=candidates,
            withheld_from=withheld_from,
            lambda_per_usd=self._lambda_per_usd(), by_lambda=self.weighing.lambda_per_usd is not None,
            affinity=self._affinity(), previous_arm=None if self.weighing.turn is None else self.weighing.turn.arm,
            win_probability=self.win, threshold=self.threshold, cascade=self._cascade(),
        )  # fmt: skip

    def expected_usd(self) -> float:
        """What the answer is expected to cost: an unknown cost counts as the dearest known one, a cascade in full."""
        costs = self.prediction.cost_usd.tolist()
        dearest = max((costs[arm] for arm in self.choice.order if costs[arm] == costs[arm]), default=0.0)
        arms = self.choice.order[: 1 if self.cascade is None else 2]
        return sum(costs[arm] if costs[arm] == costs[arm] else dearest for arm in arms)

    def spread_usd(self) -> float:
        """By how much the dearest of the arms exceeds the cheapest, in USD; 0 if no cost is known."""
        costs = self.prediction.cost_usd.tolist()
        known = [costs[arm] for arm in self.choice.order if costs[arm] == costs[arm]]
        return max(known) - min(known) if known else 0.0

    def live(self) -> dict[str, dict[str, float | None]]:
        """Per arm id what its calls show lately, where that was looked at: latencies, use of its capacity."""
        weighing = self.weighing
        found: dict[str, dict[str, float | None]] = {}
        for index, arm in enumerate(self.serving.arm_ids):
            quantiles = None if weighing.live is None else weighing.live[index]
            use = None if weighing.uses is None else weighing.uses[index]
            if quantiles is not None or use is not None:
                p50, p95 = (None, None) if quantiles is None else quantiles
                found[arm] = {"p50_s": p50, "p95_s": p95, "use": use}
        return found

    def _lambda_per_usd(self) -> float | None:
        weighing = self.weighing
        if weighing.lambda_per_usd is None:
            return weighing.shadow_per_usd or None
        return weighing.lambda_per_usd + weighing.shadow_per_usd

    def _affinity(self) -> Affinity | None:
        if not self.affinity:
            return None
        turn = self.weighing.turn
        if turn is None:
            return "init"
        return "retain" if self.serving.arm_ids[self.choice.chosen] == turn.arm else "switch"

    def _cascade(self) -> Cascade | None:
        plan = self.cascade
        if plan is None:
            return None
        arms = self.serving.arm_ids
        return Cascade(
            signal=plan.config.signal, first=arms[plan.first], then=arms[plan.then], threshold=plan.least,
            value=plan.value, escalated=plan.escalated,
        )  # fmt: skip

    def confidence(self) -> float | None:
        """Probability in [0, 1] that the chosen arm is at least as good as the next one, by the predicted errors.

        Normal approximation; None if there is no other arm or no error was predicted.
        """
        order = self.choice.order
        if len(order) < 2:
            return None
        quality, std = self.prediction.quality, self.prediction.quality_std
        spread = math.hypot(float(std[order[0]]), float(std[order[1]]))
        if not spread > 0.0:
            return None
        lead = float(quality[order[0]]) - float(quality[order[1]])
        return 0.5 * (1.0 + math.erf(lead / (spread * math.sqrt(2.0))))


def route_object(
    decision: Decision,
    attempts: Sequence[Any] = (),
    answered_by: str | None = None,
    live: Mapping[str, Mapping[str, float | None]] = NOTHING_LIVE,
) -> dict[str, Any]:
    """What `routing.explain` and `POST /v1/route` return. `live`: per arm what its calls show lately."""
    best = next((c for c in decision.candidates if c.arm == decision.arm), None)
    return {
        "decision_id": decision.id, "route": decision.route, "router": decision.router, "encoder": decision.encoder,
        "preference": decision.preference, "lambda_per_usd": decision.lambda_per_usd,
        "exploration": decision.exploration, "arm": decision.arm, "affinity": decision.affinity,
        "previous_arm": decision.previous_arm, "win_probability": decision.win_probability,
        "threshold": decision.threshold,
        "cascade": None if decision.cascade is None else msgspec.structs.asdict(decision.cascade),
        "propensity": decision.propensity, "explored": decision.explored, "withheld_from": decision.withheld_from,
        "answered_by": answered_by,
        "attempts": [
            {"arm": a.arm, "endpoint": a.endpoint, "outcome": a.outcome, "http_status": a.http_status, "error": a.error,
             "cost_usd": a.cost_usd}
            for a in attempts
        ],
        "candidates": [_candidate(c, decision, best) | {"live": live.get(c.arm)} for c in decision.candidates],
    }  # fmt: skip


def _candidate(candidate: Candidate, decision: Decision, best: Candidate | None) -> dict[str, Any]:
    return {
        "arm": candidate.arm, "quality": candidate.quality, "quality_std": candidate.quality_std,
        "cost_usd": candidate.cost_usd, "latency_s": candidate.latency_s, "utility": candidate.utility,
        "propensity": candidate.propensity, "reason": _reason(candidate, decision, best),
    }  # fmt: skip


def _reason(candidate: Candidate, decision: Decision, best: Candidate | None) -> str:
    if candidate.eliminated is not None:
        return f"eliminated: {candidate.eliminated}"
    if candidate.arm == decision.withheld_from:
        return "drawn, but as a control its model is asked without templates"
    if candidate.arm == decision.arm:
        if decision.withheld_from is not None:
            return f"control: {decision.withheld_from} was drawn, and is asked without its templates"
        if decision.explored:
            return "chosen by exploration"
        if decision.cascade is not None:
            return "chosen: first of a cascade"
        if decision.affinity == "retain":
            return "chosen: the conversation's arm, and no other gains more than a change costs"
        return "chosen: highest utility"
    if decision.explored:
        return "not drawn by exploration"
    if best is None or candidate.utility is None or best.utility is None:
        return "lower utility"
    gap = best.utility - candidate.utility
    if gap <= 0:
        return "same utility, but dearer, slower or later in the order"
    return f"utility lower by {gap:.4g}{_dearer_or_worse(candidate, best)}"


def _dearer_or_worse(candidate: Candidate, best: Candidate) -> str:
    words = []
    if candidate.quality is not None and best.quality is not None and candidate.quality < best.quality:
        words.append(f"quality {candidate.quality:.3g} against {best.quality:.3g}")
    if candidate.cost_usd is not None and best.cost_usd is not None and candidate.cost_usd > best.cost_usd:
        words.append(f"cost {candidate.cost_usd:.3g} against {best.cost_usd:.3g} USD")
    return f": {' and '.join(words)}" if words else ""


def considered(selection: Selection, *, withheld: bool) -> list[dict[str, Any]]:
    """Why each template that was near is in the prompt of a `thought` arm or not; nearest first."""
    return [
        {
            "id": near.id, "similarity": near.similarity, "worth": near.worth, "score": near.score,
            "fate": CONTROL if withheld and near.fate == "shown" else near.fate,
        }
        for near in selection.considered
    ]  # fmt: skip


def response_headers(exchange: Exchange, decided: Decided | None, *, complete: bool) -> list[tuple[bytes, bytes]]:
    """`x-request-id`, at most eleven `x-tokamak-*` headers, and those of the key's rates.

    Cost is only known once the answer is `complete`.
    """
    arm = exchange.arm
    request_id = exchange.client_request_id or exchange.id
    attempts = len(exchange.trail.attempts) + (exchange.trail.running is not None)
    headers = [
        (b"x-request-id", request_id.encode("latin-1")),
        (b"x-tokamak-schema", SCHEMA),
        (b"x-tokamak-decision-id", exchange.id.encode()),
        (b"x-tokamak-overhead-ms", b"%.3f" % (exchange.overhead_s() * 1e3)),
        (b"x-tokamak-attempts", b"%d" % attempts),
    ]
    if arm is not None:
        headers.append((b"x-tokamak-model", _ascii(arm.id)))
    if exchange.route is not None:
        headers.append((b"x-tokamak-route", _ascii(exchange.route)))
    if decided is not None:
        headers.append((b"x-tokamak-router", _ascii(decided.serving.router)))
        confidence = decided.confidence()
        if confidence is not None:
            headers.append((b"x-tokamak-confidence", b"%.3f" % confidence))
    if exchange.cache is not None:
        headers.append((b"x-tokamak-cache", exchange.cache.result.encode()))
    if exchange.template_ids:
        headers.append((b"x-tokamak-template", ",".join(exchange.template_ids).encode()))
    if complete and exchange.cost_usd is not None:
        headers.append((b"x-tokamak-cost-usd", b"%.8f" % exchange.cost_usd))
    if exchange.key is not None and exchange.key.has_rates:
        headers += exchange.key.headers()
    return headers


def _ascii(text: str) -> bytes:
    return text.encode("ascii", "replace")
