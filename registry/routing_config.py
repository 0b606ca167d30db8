"""What the schema of the config cannot say about routing: keys that exclude each other, arms that are not there."""

from __future__ import annotations

import re
from collections.abc import Iterator

from registry.arms import Model, Pool
from registry.config import CascadeConfig, Config, KeyConfig, RouteConfig
from registry.yaml_lines import Path as KeyPath

Problem = tuple[KeyPath, str]


def routing_problems(config: Config) -> Iterator[Problem]:
    """Where the problem is, and what to do about it."""
    models = (
        Model(name, (), tuple(m.ways), capabilities=frozenset(m.capabilities)) for name, m in config.models.items()
    )
    pool = Pool(tuple(models))
    for name, route in config.routes.items():
        yield from _route_problems(("routes", name), route, pool)
    pair = config.routers.pair
    for role, arm in () if pair is None else (("strong", pair.strong), ("weak", pair.weak)):
        if arm not in pool.arms:
            yield ("routers", "pair", role), f"no arm `{arm}`; the arms are {', '.join(pool.arms) or 'none'}"
    if pair is not None and pair.strong == pair.weak:
        yield ("routers", "pair"), "`routers.pair`: the strong and the weak arm must differ"
    yield from _budget_problems(config, pool)
    bounds = config.routers.automatic
    if bounds.max_canary_hours < bounds.canary_hours:
        yield (
            ("routers", "automatic"),
            f"`max_canary_hours` ({bounds.max_canary_hours:g}) must be at least `canary_hours` "
            f"({bounds.canary_hours:g}); else every canary is rolled back before it may be promoted",
        )


def _budget_problems(config: Config, pool: Pool) -> Iterator[Problem]:
    """Budgets that could not be kept, and keys that say something about a budget that is not there."""
    priced = {name for name, model in config.models.items() if model.prices is not None}
    holders: list[tuple[KeyPath, RouteConfig | KeyConfig]] = [
        *((("routes", name), route) for name, route in config.routes.items()),
        *((("limits", "keys", index), key) for index, key in enumerate(config.limits.keys)),
    ]
    for path, holder in holders:
        if holder.usd_per_day is None and "when_spent" in holder.model_fields_set:
            yield (*path, "when_spent"), "`when_spent` is read with `usd_per_day` only; set that too, or remove it"
        if holder.usd_per_day is not None and not priced & {
            arm.model.name for arm in pool.matching(tuple(holder.models))
        }:
            yield (
                (*path, "usd_per_day"),
                "`usd_per_day` cannot be kept: none of the models has `prices`, so no cost is known",
            )
    shape = config.limits.traffic_shape
    if shape is not None and sum(shape) <= 0:
        yield ("limits", "traffic_shape"), "`limits.traffic_shape`: expected at least one hour above 0"
    if shape is not None and all(holder.usd_per_day is None for _, holder in holders):
        yield (
            ("limits", "traffic_shape"),
            "`limits.traffic_shape` paces budgets, and there is none; set a `usd_per_day`, or remove it",
        )


def _route_problems(path: KeyPath, route: RouteConfig, pool: Pool) -> Iterator[Problem]:
    if route.lambda_per_usd is not None and "preference" in route.model_fields_set:
        yield (
            (*path, "lambda_per_usd"),
            f"route `{path[-1]}`: set `preference` or `lambda_per_usd`, not both; they weigh cost in different units",
        )
    if route.cascade is not None:
        on_route = {arm.id for arm in pool.matching(tuple(route.models))}
        yield from _cascade_problems((*path, "cascade"), route.cascade, on_route, pool)


def _cascade_problems(path: KeyPath, cascade: CascadeConfig, on_route: set[str], pool: Pool) -> Iterator[Problem]:
    given = cascade.model_fields_set
    if cascade.signal == "logprob" and "pattern" in given:
        yield (*path, "pattern"), "`pattern` is read by the signal `verifier` only; remove it, or change `signal`"
    if cascade.signal == "verifier" and "threshold" in given:
        yield (*path, "threshold"), "`threshold` is read by the signal `logprob` only; remove it, or change `signal`"
    if cascade.pattern is not None:
        try:
            re.compile(cascade.pattern)
        except re.error as error:
            yield (*path, "pattern"), f"`pattern` is no regular expression: {error}"
    if cascade.first is not None and not on_route & {arm.id for arm in pool.matching(tuple(cascade.first))}:
        yield (
            (*path, "first"),
            f"no arm of the route matches {', '.join(cascade.first)}; it has {', '.join(sorted(on_route)) or 'none'}",
        )
