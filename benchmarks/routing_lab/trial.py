"""One trial: one contender learns from the training part of one split of one pool, and chooses on the test part."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.routing_lab.contenders import ORACLE, RANDOM, SINGLE, Contender
from benchmarks.routing_lab.peers import ROUTELLM, RouteLlmFactors
from benchmarks.routing_lab.rulers import TaskTable, tagged, truth
from offline.routing.curves import average_recovered, choice_entropy, pair_curve, share_for
from offline.routing.metrics import calibration_error
from offline.routing.scenario_rewards import SCENARIOS, RewardScale
from routers.catalogue import ROUTERS
from routers.policy.decide import greedy_batch
from routers.prior import PriorRouter
from routers.protocol import Outcomes, Prediction, Router
from routers.rows import positions, prepared, subset, weights

Choices = NDArray[np.intp]
F64 = NDArray[np.float64]

SWEEP: Final = tuple(float(1.0 / (1.0 + slope)) for slope in np.geomspace(0.003, 30.0, 31))
"""Preferences strictly between the ends 1 and 0, which are tried too: slopes of quality over cost."""
TIMED_CALLS: Final = 200
TIMED_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it.

    Attributes
    ----------
    query_ids: the n queries of the test part.
    scores, costs, rewards: [S, n] of the choices made in each scenario, in the order of `scenarios`.
    curve: [P, 2], mean cost and mean quality of every setting that was tried, or of the best single arm's row of every
        arm alone; empty where costs are not known.
    figures: the rest, by name; a figure that does not apply is absent.
    """

    scenarios: tuple[str, ...]
    query_ids: tuple[str, ...]
    scores: F64
    costs: F64
    rewards: F64
    curve: F64
    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class Ground:
    """What all contenders of one split share: its two parts, the normalisers and the best single arm's knowledge."""

    training: Outcomes
    test: Outcomes
    priced: bool
    single: PriorRouter
    scale: RewardScale

    @classmethod
    def of(cls, training: Outcomes, test: Outcomes, priced: bool) -> Ground:
        training, test = prepared(training), prepared(test)
        return cls(training, test, priced, PriorRouter.fit(training), RewardScale.learned(training))

    @property
    def scenarios(self) -> tuple[str, ...]:
        return tuple(SCENARIOS) if self.priced else ("performance",)


def run_trial(contender: Contender, ground: Ground, seed: int) -> Trial:
    """Fit and judge. Raises whatever the router raises."""
    training, test = capped(ground.training, contender.cap.train_queries), ground.test
    if contender.tagged:
        training, test = tagged(training), tagged(test)
    figures: dict[str, float] = {"train_queries": len(training.query_ids), "test_queries": len(test.query_ids)}
    if contender.name == RANDOM:
        return _random(ground, figures)
    if contender.name == ROUTELLM:
        return _peer(ground, training, seed, figures)
    if contender.refitted:
        return _refitted(contender, ground, training, seed, figures)
    if contender.name == ORACLE:
        prediction = truth(test)
    elif contender.router is None:
        prediction = TaskTable.fit(training).predict(test.tasks, len(test.query_ids))
    else:
        router = _fitted(contender.router, training, seed, figures)
        prediction = router.predict_batch(test.vectors, test.features, test.texts)
        figures |= _weight(router, test)
    if contender.name != ORACLE:
        figures["ece"] = _known(calibration_error(prediction.quality, test.quality, weights(test)))
    figures |= _pair_figures(ground, prediction)
    choices = _scenario_choices(ground, prediction, oracle=contender.name == ORACLE)
    return _trial(ground, choices, _swept(contender, ground, prediction), figures)


def capped(training: Outcomes, queries: int | None) -> Outcomes:
    """At most so many of the training queries, drawn by content."""
    if queries is None or queries >= len(training.query_ids):
        return training
    order = np.argsort(positions(training.query_ids, "capped"), kind="stable")[:queries]
    return subset(training, np.sort(order))


def _fitted(name: str, training: Outcomes, seed: int, figures: dict[str, float], **settings: Any) -> Router:
    start = time.perf_counter()
    router = ROUTERS[name].fit(training, seed=seed, **settings)
    figures.setdefault("fit_s", time.perf_counter() - start)
    return router


def _refitted(contender: Contender, ground: Ground, training: Outcomes, seed: int, figures: dict[str, float]) -> Trial:
    """One fit for each scenario, as published: labels say which arm is best at that preference."""
    if contender.router is None:
        raise ValueError(f"{contender.name} is no router")
    test, choices = ground.test, {}
    for scenario in ground.scenarios:
        alpha = SCENARIOS[scenario][0]
        router = _fitted(contender.router, training, seed, figures, preference=alpha)
        prediction = router.predict_batch(test.vectors, test.features, test.texts)
        choices[scenario] = np.argmax(prediction.quality, axis=1)
        if scenario == "performance":
            figures |= _weight(router, test) | _pair_figures(ground, prediction)
    # At preference 0 every label is the cheapest arm, whatever is learned.
    cheapest = np.full(len(test.query_ids), np.argmin(ground.training.cost_usd.mean(axis=0)), dtype=np.intp)
    return _trial(ground, choices, [*choices.values(), cheapest] if ground.priced else [], figures)


def _peer(ground: Ground, training: Outcomes, seed: int, figures: dict[str, float]) -> Trial:
    """RouteLLM's package on a pair: the likelier winner, and its thresholds for shares of calls to the strong arm."""
    start = time.perf_counter()
    learned = RouteLlmFactors.fit(training, seed)
    figures["fit_s"] = time.perf_counter() - start
    figures["bytes"] = float(learned.weights.nbytes)
    scores, known = learned.scores(ground.test.vectors), learned.scores(training.vectors)
    nothing = np.full_like(scores, np.nan)
    figures |= _pair_figures(ground, Prediction(scores, nothing, nothing, nothing))
    margin = scores[:, 0] - scores[:, 1]
    thresholds = np.quantile(known[:, 0] - known[:, 1], np.linspace(0.0, 1.0, 21))
    swept = [np.where(margin >= threshold, 0, 1) for threshold in (-np.inf, *thresholds, np.inf)]
    return _trial(ground, {"performance": np.argmax(scores, axis=1)}, swept if ground.priced else [], figures)


def _swept(contender: Contender, ground: Ground, prediction: Prediction) -> list[Choices]:
    """The choices at every preference; of the best single arm, which has no knob, every arm alone: the zero router."""
    if not ground.priced:
        return []
    if contender.name == SINGLE:
        rows, arms = prediction.quality.shape
        return [np.full(rows, arm, dtype=np.intp) for arm in range(arms)]
    return [greedy_batch(prediction, preference, ground.single.cost_scale) for preference in (1.0, *SWEEP, 0.0)]


def _scenario_choices(ground: Ground, prediction: Prediction, oracle: bool) -> dict[str, Choices]:
    if oracle:
        return {scenario: _best_of(ground, scenario) for scenario in ground.scenarios}
    scale = ground.single.cost_scale
    return {scenario: greedy_batch(prediction, SCENARIOS[scenario][0], scale) for scenario in ground.scenarios}


def _best_of(ground: Ground, scenario: str) -> Choices:
    """The arm of the highest reward that was in fact got; of several, the one whose answer was cheapest."""
    rewards = ground.scale.rewards(ground.test, *SCENARIOS[scenario])
    best = rewards == rewards.max(axis=1, keepdims=True)
    return np.asarray(np.argmin(np.where(best, np.nan_to_num(ground.test.cost_usd), np.inf), axis=1))


def _trial(ground: Ground, choices: Mapping[str, Choices], swept: list[Choices], figures: dict[str, float]) -> Trial:
    test = ground.test
    rewards = {s: ground.scale.rewards(test, *SCENARIOS[s]) for s in choices}
    figures["entropy"] = choice_entropy(choices["performance"], len(test.arms))
    points = [(_picked(test.cost_usd, c).mean(), _picked(test.quality, c).mean()) for c in swept]
    return Trial(
        scenarios=tuple(choices),
        query_ids=test.query_ids,
        scores=np.stack([_picked(test.quality, chosen) for chosen in choices.values()]),
        costs=np.stack([_picked(test.cost_usd, chosen) for chosen in choices.values()]),
        rewards=np.stack([_picked(rewards[scenario], chosen) for scenario, chosen in choices.items()]),
        curve=np.array(points, dtype=np.float64).reshape(-1, 2),
        figures=figures,
    )


def _random(ground: Ground, figures: dict[str, float]) -> Trial:
    """Every arm with the same probability: of each query the mean over the arms."""
    test = ground.test
    rewards = [ground.scale.rewards(test, *SCENARIOS[s]).mean(axis=1) for s in ground.scenarios]
    score, cost = test.quality.mean(axis=1, dtype=np.float64), test.cost_usd.mean(axis=1, dtype=np.float64)
    count = len(rewards)
    return Trial(
        scenarios=ground.scenarios,
        query_ids=test.query_ids,
        scores=np.tile(score, (count, 1)),
        costs=np.tile(cost, (count, 1)),
        rewards=np.stack(rewards),
        curve=np.array([[cost.mean(), score.mean()]]) if ground.priced else np.empty((0, 2)),
        figures=figures | {"entropy": 1.0},
    )


def _picked(matrix: NDArray[np.floating[Any]], chosen: Choices) -> F64:
    return matrix[np.arange(len(chosen)), chosen].astype(np.float64)


def _pair_figures(ground: Ground, prediction: Prediction) -> dict[str, float]:
    """APGR and CPT where the pool is a pair; the strong arm is the one that was better in training."""
    test = ground.test
    if len(test.arms) != 2:
        return {}
    strong = int(np.argmax(ground.training.quality.mean(axis=0)))
    preferred = prediction.quality[:, strong].astype(np.float64) - prediction.quality[:, 1 - strong]
    curve = pair_curve(preferred, test.quality[:, strong], test.quality[:, 1 - strong])
    if curve is None:
        return {}
    return {"apgr": average_recovered(curve), "cpt_50": share_for(curve, 0.5), "cpt_80": share_for(curve, 0.8)}


def _weight(router: Router, test: Outcomes) -> dict[str, float]:
    """Microseconds to predict for one query, the median over calls with queries of the test part; bytes of arrays."""
    return {
        "predict_us": _median_us(router, test),
        "bytes": float(sum(array.nbytes for array in router.arrays().values())),
    }


def _median_us(router: Router, test: Outcomes) -> float:
    calls: list[Callable[[], Prediction]] = []
    for row in range(min(TIMED_CALLS, len(test.query_ids))):
        features = None if test.features is None else test.features[row]
        text = None if test.texts is None else test.texts[row]
        calls.append(partial(router.predict, test.vectors[row], features, text))
    taken: list[float] = []
    began = time.perf_counter()
    calls[0]()
    for call in calls:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
        if time.perf_counter() - began > TIMED_SECONDS:
            break
    return 1e6 * float(np.median(taken))


def _known(figure: float | None) -> float:
    if figure is None:
        raise ValueError("a figure is missing although every arm answered every query")
    return figure
