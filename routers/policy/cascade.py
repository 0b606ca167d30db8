"""Cheap first: let one arm answer, look at the answer, and ask a better arm only if it is not good enough. Pure.

A cascade can beat any choice made beforehand where an answer is easier to judge than to predict. It wastes the first
call and its time whenever it escalates, so it is let run only where

    gain * value > P(escalate) * (cost of the first call + price of its latency),

with the gain in predicted quality from the first to the second arm and the value of quality in USD (FrugalGPT, AutoMix;
the break-even of cascades). P(escalate) is what was seen lately on the route.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

PRIOR_ESCALATIONS, PRIOR_ANSWERS = 1.0, 2.0
MEMORY_ANSWERS = 200.0
"""Escalations of about so many answers are remembered."""
JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "number": (int, float), "integer": (int,),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip


def pays(
    gain: float, value_usd: float, escalation_share: float, first_cost_usd: float, latency_price_usd: float = 0.0
) -> bool:
    """The break-even rule. `gain` in quality, `value_usd` USD per quality (may be inf), the share in [0, 1].

    An unknown cost (NaN) does not pay.
    """
    if not gain > 0.0 or math.isnan(first_cost_usd):
        return False
    return gain * value_usd > escalation_share * (first_cost_usd + latency_price_usd)


@dataclass(slots=True)
class Escalations:
    """The running share of first answers that were not good enough; one half before any was seen."""

    escalated: float = PRIOR_ESCALATIONS
    answers: float = PRIOR_ANSWERS

    @property
    def share(self) -> float:
        return self.escalated / self.answers

    def note(self, escalated: bool) -> None:
        keep = 1.0 - 1.0 / MEMORY_ANSWERS
        self.answers = self.answers * keep + 1.0
        self.escalated = self.escalated * keep + float(escalated)


def mean_logprob(logprobs: Sequence[float]) -> float | None:
    """Mean log probability of an answer's tokens, at most 0; None without tokens or with one that is no number."""
    if not logprobs or not all(math.isfinite(value) for value in logprobs):
        return None
    return min(math.fsum(logprobs) / len(logprobs), 0.0)


def matches(text: str, pattern: str) -> float:
    """1.0 if the pattern is found in the text, else 0.0."""
    return float(re.search(pattern, text) is not None)


def holds_json(text: str, schema: Mapping[str, Any] | None = None) -> float:
    """1.0 if the text is JSON that fits the schema, else 0.0.

    Read of the schema are `type`, `enum`, `required`, `properties`, `items` and `additionalProperties: false`; what
    else it asks for is not checked.
    """
    try:
        value = msgspec.json.decode(text.strip())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0.0
    return float(schema is None or _fits(value, schema))


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("type")
    names = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else []
    if names and not any(_is(value, name) for name in names):
        return False
    if isinstance(schema.get("enum"), list) and value not in schema["enum"]:
        return False
    if isinstance(value, dict):
        return _object_fits(value, schema)
    items = schema.get("items")
    return not (isinstance(value, list) and isinstance(items, dict)) or all(_fits(item, items) for item in value)


def _object_fits(value: dict[str, Any], schema: Mapping[str, Any]) -> bool:
    properties = schema.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    if any(name not in value for name in schema.get("required") or ()):
        return False
    if schema.get("additionalProperties") is False and any(name not in properties for name in value):
        return False
    return all(
        _fits(value[name], part) for name, part in properties.items() if name in value and isinstance(part, dict)
    )


def _is(value: Any, kind: Any) -> bool:
    # In JSON true is no number, in Python it is.
    if isinstance(value, bool):
        return bool(kind == "boolean")
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, JSON_TYPES.get(str(kind), ()))
