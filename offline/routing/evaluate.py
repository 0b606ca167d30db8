"""Routers side by side on queries that none of them has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from rich.table import Table

from offline.routing.metrics import Choices, Interval, calibration_error, gain, oracle_value, random_value, value
from routers.catalogue import ROUTERS
from routers.policy.decide import PRESETS, greedy_batch
from routers.prior import PriorRouter
from routers.protocol import Outcomes, Router, TrainingError
from routers.rows import prepared, split, subset, weights

HELD_OUT = 0.2
MIN_QUERIES = 50
MIN_ANSWERS_PER_ARM = 5
BEST_SINGLE = "best single"


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """What a router's choices are worth at one preference.

    `gain` is the quality beyond the best single arm's (which is chosen on the training part, at the same preference),
    as [mean, low, high] of a 95 % paired bootstrap interval. `coverage` is the share of held-out queries in which the
    chosen arm was observed, `effective` the number of equally weighted queries behind the figures. None: nothing was
    observed.
    """

    preference: float
    quality: float | None
    gain: Interval | None
    cost_usd: float | None
    coverage: float
    effective: float


class RouterResult(msgspec.Struct, frozen=True, kw_only=True):
    """One router. `calibration_error` is the mean distance of predicted from real quality, over all arms."""

    router: str
    scenarios: dict[str, Scenario]
    calibration_error: float | None
    tasks: dict[str, float] | None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The routers on a held-out part. `oracle` and the interval's ends say how much there was to win."""

    queries: int
    held_out: int
    arms: int
    observed_share: float
    encoder: str
    seed: int
    best_single_arm: str
    best_single: float | None
    random: float | None
    oracle: float | None
    routers: list[RouterResult]


def evaluate(outcomes: Outcomes, routers: Sequence[str] = ("cluster", "knn"), seed: int = 0) -> Evaluation:
    """Fit each router on four fifths of the queries (by content) and judge its choices on the rest.

    Raises
    ------
    TrainingError: too few outcomes, or an unknown router.
    """
    return fit_and_judge(outcomes, routers, seed)[1]


def fit_and_judge(outcomes: Outcomes, routers: Sequence[str], seed: int) -> tuple[dict[str, Router], Evaluation]:
    """As `evaluate`, with the routers as they were judged: learned from the training part alone."""
    unknown = [name for name in routers if name not in ROUTERS]
    if unknown:
        raise TrainingError(f"no router is called {', '.join(unknown)}; there are {', '.join(ROUTERS)}")
    outcomes = prepared(outcomes)
    require_enough(outcomes)
    training, held_out = split(outcomes, HELD_OUT, f"held-out-{seed}")
    require_observed(training, held_out)
    fitted: dict[str, Router] = {name: ROUTERS[name].fit(training, seed=seed) for name in routers}
    return fitted, judged(fitted, PriorRouter.fit(training, seed=seed), held_out, len(outcomes.query_ids), seed)


def judged(
    fitted: Mapping[str, Router], single: PriorRouter, held_out: Outcomes, queries: int, seed: int
) -> Evaluation:
    """Judge fitted routers, and the best single arm as `single` knows it, on a held-out part of `queries` in all."""
    cell_weights = weights(held_out)
    best = single.predict_batch(held_out.vectors)
    presets = {name: preference for name, preference in PRESETS.items() if name == "performance" or _priced(held_out)}
    baselines = {name: greedy_batch(best, preference, single.cost_scale) for name, preference in presets.items()}
    results = []
    for name, router in {BEST_SINGLE: single, **fitted}.items():
        prediction = router.predict_batch(held_out.vectors, held_out.features, held_out.texts)
        choices = {p: greedy_batch(prediction, value, single.cost_scale) for p, value in presets.items()}
        results.append(
            RouterResult(
                router=name,
                scenarios={
                    preset: _scenario(held_out, choices[preset], baselines[preset], preference, seed)
                    for preset, preference in presets.items()
                },
                calibration_error=calibration_error(prediction.quality, held_out.quality, cell_weights),
                tasks=_by_task(held_out, choices["performance"]),
            )
        )
    return Evaluation(
        queries=queries,
        held_out=len(held_out.query_ids),
        arms=len(held_out.arms),
        observed_share=float((cell_weights > 0).mean()),
        encoder=held_out.encoder,
        seed=seed,
        best_single_arm=held_out.arms[int(baselines["performance"][0])],
        best_single=results[0].scenarios["performance"].quality,
        random=random_value(held_out.quality, cell_weights),
        oracle=oracle_value(held_out.quality),
        routers=results,
    )


def require_enough(outcomes: Outcomes) -> None:
    """Raise TrainingError, saying how many are needed, if these outcomes are too few to learn from and to judge by."""
    queries = int((~np.isnan(outcomes.quality)).any(axis=1).sum())
    answers = (~np.isnan(outcomes.quality)).sum(axis=0)
    enough = [arm for arm, count in zip(outcomes.arms, answers, strict=True) if count >= MIN_ANSWERS_PER_ARM]
    if queries < MIN_QUERIES:
        raise TrainingError(
            f"{queries} queries have a scored answer, at least {MIN_QUERIES} are needed; score more answers"
        )
    if len(enough) < 2:
        raise TrainingError(
            f"{len(enough)} arms have at least {MIN_ANSWERS_PER_ARM} scored answers, at least 2 are needed to choose "
            f"between; set `exploration` in a route, or ask models by name (answers now: "
            f"{', '.join(f'{arm} {count}' for arm, count in zip(outcomes.arms, answers.tolist(), strict=True))})"
        )


def require_observed(training: Outcomes, held_out: Outcomes) -> None:
    """Raise TrainingError if a side of the split holds no scored answer."""
    for part, side in ((training, "training"), (held_out, "held-out")):
        if np.all(np.isnan(part.quality)):
            raise TrainingError(f"the {side} part of the split has no scored answer; score more answers")


def _priced(outcomes: Outcomes) -> bool:
    """Whether costs are known well enough for preferences that weigh them."""
    return bool(np.isfinite(outcomes.cost_usd[~np.isnan(outcomes.quality)]).mean() > 0.5)


def _scenario(held_out: Outcomes, chosen: Choices, baseline: Choices, preference: float, seed: int) -> Scenario:
    cell_weights = weights(held_out)
    quality = value(held_out.quality, cell_weights, chosen)
    cost = value(held_out.cost_usd, cell_weights, chosen)
    return Scenario(
        preference=preference,
        quality=None if quality is None else quality.mean,
        gain=gain(held_out.quality, cell_weights, chosen, baseline, seed),
        cost_usd=None if cost is None else cost.mean,
        coverage=0.0 if quality is None else quality.coverage,
        effective=0.0 if quality is None else quality.effective,
    )


def _by_task(held_out: Outcomes, chosen: Choices) -> dict[str, float] | None:
    """Quality per task; a task in which no chosen arm was observed is left out."""
    if held_out.tasks is None:
        return None
    names = np.array(held_out.tasks)
    found = {}
    for task in sorted(set(held_out.tasks)):
        rows = np.flatnonzero(names == task)
        part = subset(held_out, rows)
        estimate = value(part.quality, weights(part), chosen[rows])
        if estimate is not None:
            found[task] = estimate.mean
    return found


def rendered(evaluation: Evaluation) -> Table:
    """The evaluation as a table for a terminal: gains over the best single arm in points, ECE the calibration error."""
    title = (
        f"{evaluation.held_out} held-out of {evaluation.queries} queries, {evaluation.arms} arms, "
        f"{evaluation.observed_share:.0%} of answers observed\nbest single arm: {evaluation.best_single_arm}"
    )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for heading in ("router", "preference", "quality", "gain in points [95 %]", "USD/1k", "ECE"):
        table.add_column(heading, justify="left" if heading in ("router", "preference") else "right", no_wrap=True)
    table.add_row("random", "", _number(evaluation.random), "", "", "")
    for result in evaluation.routers:
        for preset, scenario in result.scenarios.items():
            cost = None if scenario.cost_usd is None else 1000 * scenario.cost_usd
            error = result.calibration_error if preset == "performance" else None
            shown = "" if result.router == BEST_SINGLE else _interval(scenario.gain)
            table.add_row(result.router, preset, _number(scenario.quality), shown, _number(cost), _number(error))
    table.add_row("oracle", "", _number(evaluation.oracle), "", "", "")
    return table


def _number(number: float | None) -> str:
    return "" if number is None else f"{number:.4f}"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * number for number in interval))
