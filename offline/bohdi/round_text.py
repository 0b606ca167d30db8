"""What a round has come to, as text."""

from __future__ import annotations

from offline.bohdi.rounds import RoundReport


def told(report: RoundReport) -> str:
    """A round in one line."""
    reward = "-" if report.mean_reward is None else f"{report.mean_reward:.2f}"
    cost = "no price known" if report.cost_usd is None else f"{report.cost_usd:.4f} USD"
    parts = [
        f"round {report.round}{' (went on)' if report.went_on else ''}: {report.contests} contests",
        f"mean reward {reward}, {report.dropped} dropped, {report.sprouted} new domains, {report.resets} resets",
        f"{report.calls} calls, {cost}",
        *(f"  {count} x {reason}" for reason, count in report.reasons.items()),
        *(f"  {count} x {failure}" for failure, count in report.failures.items()),
    ]
    if report.stopped_by:
        parts.append(f"  stopped by the {report.stopped_by}")
    return "\n".join([", ".join(parts[:3]), *parts[3:]])
