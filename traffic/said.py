"""Everything said about answers, as numbers: scores, and feedback that nobody has turned into a score yet."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import isnan

from traffic.records import Feedback, Score, ScoreSource


class ScoreOutOfRange(ValueError):
    """A score is NaN or outside of [0, 1]. The message says which."""


def said_about(
    scores: Iterable[Score],
    feedback: Iterable[Feedback],
    sources: Collection[ScoreSource] | None = None,
    until: float | None = None,
) -> dict[str, list[float]]:
    """The values in [0, 1] of each interaction id.

    `sources`: only scores of these sources (feedback that is no score yet counts as `feedback`); all if left out.
    `until`: only what was said before this Unix time.

    Raises
    ------
    ScoreOutOfRange: a value is not in [0, 1].
    """
    values: dict[str, list[float]] = {}
    derived: set[str] = set()
    for score in scores:
        if score.source == "feedback":
            derived.add(score.interaction_id)
        if (sources is None or score.source in sources) and (until is None or score.created_at < until):
            value = _in_range(score.value, f"score of {score.interaction_id}")
            values.setdefault(score.interaction_id, []).append(value)
    if sources is not None and "feedback" not in sources:
        return values
    for statement in feedback:
        # What a scorer already turned into a score must not count twice; text says nothing in numbers.
        if statement.interaction_id in derived or not isinstance(statement.value, (bool, int, float)):
            continue
        if until is None or statement.created_at < until:
            number = _in_range(float(statement.value), f"feedback {statement.id} on {statement.interaction_id}")
            values.setdefault(statement.interaction_id, []).append(number)
    return values


def _in_range(value: float, what: str) -> float:
    if isnan(value) or not 0.0 <= value <= 1.0:
        raise ScoreOutOfRange(f"{what} must lie in [0, 1], got {value}; correct it in the log, or read a later window")
    return value
