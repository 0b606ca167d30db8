"""Counters and histograms of the process, fed once per request from its log record, written in Prometheus' text format.

No label carries an id, a prompt or anything else without a bound.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence

from service.template_metrics import TemplateMetrics
from traffic.log import LogStats
from traffic.records import Decision, Interaction

SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
MAX_SERIES = 2000
"""Label sets per metric; further ones are counted under `other`."""

Labels = tuple[str, ...]


class Counter:
    """A monotone counter with labels."""

    def __init__(self, name: str, help_: str, labels: Sequence[str]) -> None:
        self.name, self.help, self.labels = name, help_, tuple(labels)
        self.values: defaultdict[Labels, float] = defaultdict(float)

    def add(self, labels: Labels, amount: float = 1.0) -> None:
        values = self.values
        if labels not in values and len(values) >= MAX_SERIES:
            labels = ("other",) * len(self.labels)
        values[labels] += amount

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} counter"
        for labels, value in list(self.values.items()):
            yield f"{self.name}{_labelled(self.labels, labels)} {value:.17g}"


class Histogram:
    """A histogram of seconds without labels."""

    def __init__(self, name: str, help_: str, bounds: Sequence[float] = SECONDS) -> None:
        self.name, self.help, self.bounds = name, help_, tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} histogram"
        cumulative = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            cumulative += count
            yield f'{self.name}_bucket{{le="{bound}"}} {cumulative}'
        yield f"{self.name}_sum {self.total:.9g}"
        yield f"{self.name}_count {cumulative}"


class Metrics:
    """All metrics of one gateway process."""

    def __init__(self) -> None:
        self.requests = Counter("tokamak_requests_total", "Requests by outcome.", ("model", "route", "status"))
        self.tokens = Counter("tokamak_tokens_total", "Tokens as upstreams reported them.", ("model", "type"))
        self.cost = Counter("tokamak_cost_usd_total", "Cost in USD by list price.", ("model",))
        self.decisions = Counter("tokamak_decisions_total", "Routing decisions.", ("router", "model", "reason"))
        self.routed = Counter("tokamak_router_requests_total", "Routed requests by version.", ("router", "outcome"))
        self.routed_cost = Counter("tokamak_router_cost_usd_total", "Their cost in USD.", ("router",))
        self.routed_scores = Counter("tokamak_router_scores_total", "Scores of their answers.", ("router",))
        self.routed_quality = Counter("tokamak_router_quality_total", "Sum of those scores.", ("router",))
        self.shadowed = Counter("tokamak_shadow_total", "Decisions taken again in shadow.", ("router", "agrees"))
        self.attempts = Counter("tokamak_attempts_total", "Calls of upstreams by outcome.", ("outcome",))
        self.templates = Counter("tokamak_template_hits_total", "Answers asked for with thought templates.", ())
        self.thought = TemplateMetrics()
        self.overhead = Histogram("tokamak_overhead_seconds", "Time spent in this service per request.")
        self.ttft = Histogram("tokamak_ttft_seconds", "Time from an upstream call to its first event or whole answer.")
        self.upstream = Histogram("tokamak_upstream_seconds", "Length of an upstream call.")

    def observe(self, record: Interaction) -> None:
        """Count one finished request."""
        model = record.model or "none"
        self.requests.add((model, record.route or "none", f"{record.outcome}:{record.http_status}"))
        for attempt in record.attempts:
            self.attempts.add((attempt.outcome,))
            self.upstream.observe(attempt.latency_s)
        if record.overhead_s is not None:
            self.overhead.observe(record.overhead_s)
        if record.ttft_s is not None:
            self.ttft.observe(record.ttft_s)
        usage = record.usage if record.cached_from is None else None
        if usage is not None:
            if usage.prompt_tokens is not None:
                self.tokens.add((model, "prompt"), usage.prompt_tokens)
            if usage.completion_tokens is not None:
                self.tokens.add((model, "completion"), usage.completion_tokens)
        if record.cost_usd is not None:
            self.cost.add((model,), record.cost_usd)
        if record.decision is not None:
            reason = "explored" if record.decision.explored else "greedy"
            self.decisions.add((record.decision.router, record.decision.arm, reason))
            self._observe_version(record, record.decision)
        if record.template_ids:
            self.templates.add(())
        self.thought.observe(record)

    def _observe_version(self, record: Interaction, decision: Decision) -> None:
        self.routed.add((decision.router, record.outcome))
        if record.cost_usd is not None:
            self.routed_cost.add((decision.router,), record.cost_usd)
        shadow = decision.shadow
        if shadow is not None:
            agrees = "failed" if shadow.error is not None else "yes" if shadow.arm == decision.arm else "no"
            self.shadowed.add((shadow.router, agrees))

    def scored(self, router: str, value: float) -> None:
        """Count a score in [0, 1] of an answer that this version has chosen the arm of."""
        self.routed_scores.add((router,))
        self.routed_quality.add((router,), value)

    def render(self, *, log: LogStats, router: str, active: int, down: Sequence[str]) -> bytes:
        """The text that `/metrics` answers."""
        lines: list[str] = []
        for metric in (
            self.requests, self.tokens, self.cost, self.decisions, self.routed, self.routed_cost,
            self.routed_scores, self.routed_quality, self.shadowed, self.attempts, self.templates, self.overhead,
            self.ttft, self.upstream,
        ):  # fmt: skip
            lines += metric.lines()
        lines += self.thought.lines()
        gauges = [
            ("tokamak_requests_running", "", active), ("tokamak_log_queue_depth", "", log.queue_depth),
            ("tokamak_log_dropped_total", "", log.dropped), ("tokamak_log_written_total", "", log.written),
            ("tokamak_router_info", _labelled(("version",), (router,)), 1),
        ]  # fmt: skip
        for name, labels, value in gauges:
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# TYPE {name} {kind}", f"{name}{labels} {value}"]
        lines.append("# TYPE tokamak_endpoint_down gauge")
        lines += [f"tokamak_endpoint_down{_labelled(('endpoint',), (name,))} 1" for name in down]
        return ("\n".join(lines) + "\n").encode()


def _labelled(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    escaped = (v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for v in values)
    return "{" + ",".join(f'{n}="{v}"' for n, v in zip(names, escaped, strict=True)) + "}"
