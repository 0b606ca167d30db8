"""What the caller may say about routing: the `routing` object, its header equivalents and two aliases of the field.

Precedence: the body's `routing` object, then `x-tokamak-routing-*` headers, then `plugins` (OpenRouter) and `max_cost`
(Martian), then the preset in the model's name (`auto:cheap`), then the route's config.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from routers.policy import decide as policy
from service.errors import ApiError, invalid, nearest
from service.wire import Body, type_name

PRESETS: dict[str, float] = {"best": 1.0, "balanced": 0.5, "cheap": 0.2}
"""Preference of each preset; the scenarios of FusionFactory table 4 (performance, balance, cost first)."""
JUDGE = "judge"
PREFERENCE_NAMES: dict[str, float] = {**policy.PRESETS, **PRESETS, JUDGE: 1.0}
"""FusionFactory's scenarios. `judge` is performance first by a router that learned from a judge's scores."""
HEADER_PREFIX = "x-tokamak-routing-"
CacheWish = Literal["use", "refresh", "no-store"]
CACHE_WISHES: tuple[CacheWish, ...] = get_args(CacheWish)


@dataclass(frozen=True, slots=True)
class RoutingOptions:
    """The caller's wishes; None where nothing was said. Of `preference` and `lambda_per_usd` at most one is set.

    `judge`: only a router that learned from a judge's scores may decide. `cache`: use it also where answers differ from
    time to time, ask anew and keep the answer, or have no part in it. `cache_ttl_s`: an older answer does not do.
    """

    preference: float | None = None
    models: tuple[str, ...] | None = None
    exploration: float | None = None
    max_cost_usd: float | None = None
    deadline_ms: float | None = None
    explain: bool = False
    lambda_per_usd: float | None = None
    affinity: bool | None = None
    judge: bool = False
    cache: CacheWish | None = None
    cache_ttl_s: float | None = None


NO_OPTIONS = RoutingOptions()


def routing_options(body: Body, headers: Mapping[bytes, bytes]) -> RoutingOptions:
    """Read the options of one request. Raises ApiError 400 with the nearest key for an unknown one."""
    found: dict[str, Any] = {}
    if "plugins" in body:
        found.update(_openrouter_plugin(body))
    if "max_cost" in body:
        found["max_cost_usd"] = _positive("max_cost", body.get("max_cost"))
    from_headers: dict[str, Any] = {}
    for name, value in headers.items():
        if name.startswith(b"x-tokamak-routing-"):
            from_headers.update(_header_option(name.decode("latin-1"), value.decode("latin-1")))
    if from_headers:
        _take_over(found, from_headers, HEADER_PREFIX)
    if "routing" in body:
        _take_over(found, _routing_object(body), "routing.")
    return RoutingOptions(**found) if found else NO_OPTIONS


def _routing_object(body: Body) -> dict[str, Any]:
    routing = body.mapping("routing") or {}
    found: dict[str, Any] = {}
    for key, value in routing.items():
        if key not in READERS:
            known = ", ".join(READERS)
            raise invalid(
                f"Unknown key {key!r} in 'routing'.{nearest(key, READERS)} Known keys: {known}.",
                f"routing.{key}", "unknown_parameter",
            )  # fmt: skip
        if value is not None:
            found.update(READERS[key](f"routing.{key}", value))
    return found


def _take_over(found: dict[str, Any], newer: dict[str, Any], prefix: str) -> None:
    """Let the newer options win. A price of money and a preference exclude each other: the newer one replaces both."""
    if "preference" in newer and "lambda_per_usd" in newer:
        raise invalid(
            f"'{prefix}lambda' and '{prefix}preference' (or 'cost_quality', 'mode', 'weights') both say what money is "
            "worth, in different units; send one of the two.",
            f"{prefix}lambda",
        )
    if "preference" in newer or "lambda_per_usd" in newer:
        for name in ("preference", "lambda_per_usd", "judge"):
            found.pop(name, None)
    found.update(newer)


def _header_option(name: str, text: str) -> dict[str, Any]:
    key = name.removeprefix(HEADER_PREFIX).replace("-", "_")
    if key not in READERS:
        raise invalid(f"Unknown header {name!r}.{nearest(key, READERS)}", name, "unknown_parameter")
    value: Any = text.strip()
    if key == "models":
        value = [part.strip() for part in text.split(",") if part.strip()]
    elif value.lower() in ("true", "false"):
        value = value.lower() == "true"
    else:
        try:
            value = float(value)
        except ValueError:
            value = text.strip()
    return READERS[key](name, value)


def _openrouter_plugin(body: Body) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for plugin in body.array("plugins") or []:
        if not isinstance(plugin, dict) or plugin.get("id") != "auto-router" or plugin.get("enabled") is False:
            continue
        if plugin.get("allowed_models") is not None:
            found.update(_models("plugins.allowed_models", plugin["allowed_models"]))
        if plugin.get("cost_quality_tradeoff") is not None:
            dial = plugin["cost_quality_tradeoff"]
            if isinstance(dial, bool) or not isinstance(dial, int | float) or not 0 <= dial <= 10:
                raise invalid("'plugins.cost_quality_tradeoff' must be a number from 0 to 10.", "plugins")
            found["preference"] = 1.0 - dial / 10.0
    return found


def _preference(param: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        if value not in PREFERENCE_NAMES:
            names = ", ".join(PREFERENCE_NAMES)
            raise invalid(f"{param!r} must be a number in [0, 1] or one of {names}; got {value!r}.", param)
        return {"preference": PREFERENCE_NAMES[value], "judge": value == JUDGE}
    return {"preference": _share(param, value)}


def _weights(param: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != {"quality", "cost"}:
        raise invalid(f"{param!r} must be an object with the two numbers 'quality' and 'cost'.", param, "invalid_type")
    quality, cost = (_not_negative(f"{param}.{key}", value[key]) for key in ("quality", "cost"))
    if quality + cost == 0:
        raise invalid(f"{param!r}: 'quality' and 'cost' cannot both be 0.", param)
    return {"preference": quality / (quality + cost)}


def _models(param: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, list) or not value or not all(isinstance(glob, str) and glob for glob in value):
        raise invalid(f"{param!r} must be a non-empty array of model names or globs.", param, "invalid_type")
    return {"models": tuple(value)}


def _flag(option: str) -> Callable[[str, Any], dict[str, Any]]:
    def read(param: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, bool):
            raise invalid(f"{param!r} must be true or false, got {type_name(value)}.", param, "invalid_type")
        return {option: value}

    return read


def _cache(param: str, value: Any) -> dict[str, Any]:
    if value not in CACHE_WISHES:
        raise invalid(f"{param!r} must be one of {', '.join(CACHE_WISHES)}; got {value!r:.60}.", param)
    return {"cache": value}


def _number(param: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise invalid(f"{param!r} must be a number, got {type_name(value)}.", param, "invalid_type")
    return float(value)


def _share(param: str, value: Any) -> float:
    number = _number(param, value)
    if not 0 <= number <= 1:
        raise invalid(f"{param!r} must lie in [0, 1], got {number:g}.", param)
    return number


def _not_negative(param: str, value: Any) -> float:
    number = _number(param, value)
    if number < 0:
        raise invalid(f"{param!r} must not be negative, got {number:g}.", param)
    return number


def _positive(param: str, value: Any) -> float:
    number = _number(param, value)
    if number <= 0:
        raise invalid(f"{param!r} must be above 0, got {number:g}.", param)
    return number


def unknown_preset(name: str) -> ApiError:
    return invalid(f"Unknown preset {name!r}; use one of {', '.join(PRESETS)}.", "model", "model_not_found")


READERS: dict[str, Callable[[str, Any], dict[str, Any]]] = {
    "preference": _preference,
    "cost_quality": _preference,
    "mode": _preference,
    "weights": _weights,
    "models": _models,
    "lambda": lambda param, value: {"lambda_per_usd": _not_negative(param, value)},
    "exploration": lambda param, value: {"exploration": _share(param, value)},
    "max_cost_usd": lambda param, value: {"max_cost_usd": _positive(param, value)},
    "deadline_ms": lambda param, value: {"deadline_ms": _positive(param, value)},
    "affinity": _flag("affinity"),
    "explain": _flag("explain"),
    "cache": _cache,
    "cache_ttl_s": lambda param, value: {"cache_ttl_s": _positive(param, value)},
}
"""Every key of the `routing` object and how it is read; `cost_quality` and `mode` are other names of `preference`."""
