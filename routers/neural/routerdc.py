"""RouterDC: queries and LLMs in one space, learned by two contrasts; similarities calibrated to mean scores.

    e = normalised(W z),   k_m = the LLM's key, normalised,   s_m = e . k_m
    sample-LLM:     for each good LLM,  -log exp(s_+) / (exp(s_+) + sum over bad ones exp(s_-))
    sample-sample:  -log exp(e . e_+) / (exp(e . e_+) + sum over 3 others exp(e . e_-))

Good LLMs are those that score as well as the third best and above 0, bad ones those that score no better than the third
worst and below 0.5; `e_+` is a query of the same cluster, the others are of other clusters. Similarities choose but say
no quality; a line per arm, fitted on held-out queries, makes them one (`routers.neural.affine`).

After RouterDC (Chen et al., 2024). The published one fine-tunes mDeBERTa-v3-base end to end; here the encoder is frozen
and `W` alone is learned, from its vectors and the feature block. Ties at the third place are all taken, so the order of
arms does not matter. A cell that was not observed stands at its cluster's shrunk mean in the sample-LLM loss: a log of
one answer per query has no contrasts otherwise. Positive cells weigh by inverse propensity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from routers.estimators.kmeans import centroids
from routers.estimators.shrinkage import group_sums, quality_means
from routers.inputs import Inputs
from routers.neural.affine import Affine, fitted_lines
from routers.neural.early_stopping import Plan, as_parameters, can_stop, descended, inner_split, torch_module
from routers.protocol import F32, Outcomes, Prediction
from routers.rows import prepared, weights
from routers.standing import Standing, StandingRouter, require_settings, without_direction

SETTINGS = ("width", "epochs", "clusters")
WIDTH, EPOCHS, CLUSTERS = 64, 30, 16
PATIENCE, BATCH, RATE, DECAY = 4, 64, 1e-3, 0.01
PLACES = 3
"""LLMs on each side of the sample-LLM loss (K+ and K-), and queries of other clusters in the sample-sample loss (H)."""
BAD = 0.5
MIN_ROWS_PER_CLUSTER = 10


class Contrast(NamedTuple):
    """What the losses need of some queries: `z` [n, P]; per arm, [n, M], the weight of good ones in `good` and 1 for
    bad ones in `bad`; `groups` [n], the cluster of each."""

    z: F32
    good: F32
    bad: F32
    groups: NDArray[np.intp]


class DualContrastiveRouter(StandingRouter):
    """Predicts from a projection, a product with the keys, and a line per arm."""

    name: ClassVar[str] = "routerdc"

    def __init__(self, standing: Standing, inputs: Inputs, projection: F32, keys: F32, lines: Affine) -> None:
        """`projection` [P, D]; `keys` [M, D], unit rows."""
        super().__init__(standing)
        self.inputs = inputs
        self.projection = projection
        self.keys = keys
        self.lines = lines

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """See `routers.protocol.Router.fit`. Settings: `width` of the space (64), `epochs` (30 at most), `clusters`."""
        require_settings(cls.name, settings, SETTINGS)
        outcomes = prepared(outcomes)
        width, epochs = int(settings.get("width", WIDTH)), int(settings.get("epochs", EPOCHS))
        inputs, standing = Inputs.learned(outcomes), Standing.learned(outcomes)
        rng = np.random.default_rng(seed)
        start = {
            "projection": rng.normal(0.0, inputs.width**-0.5, (inputs.width, width)).astype(np.float32),
        }
        z = inputs.transform(outcomes.vectors, outcomes.features)
        start["keys"] = _first_keys(_unit(z @ start["projection"]), outcomes, rng)
        training, held_out = inner_split(outcomes, seed)
        judge = held_out
        if can_stop(training, held_out):
            contrast = _contrasts(training, held_out, inputs, int(settings.get("clusters", CLUSTERS)), seed)
            start = _descended(start, *contrast, Plan(epochs, PATIENCE, BATCH, RATE, DECAY), seed)
        else:
            judge = outcomes
            start["keys"] = np.zeros_like(start["keys"])
        projection, keys = start["projection"], _unit(start["keys"])
        similarities = _unit(inputs.transform(judge.vectors, judge.features) @ projection) @ keys.T
        lines = fitted_lines(similarities, judge.quality, weights(judge), standing.quality)
        return cls(standing, inputs, projection, keys, lines)

    def predict_batch(
        self, vectors: F32, features: F32 | None = None, texts: Sequence[str | None] | None = None
    ) -> Prediction:
        """See `routers.protocol.Router.predict_batch`."""
        places = _unit(self.inputs.transform(vectors, features) @ self.projection)
        quality, std = self.lines.predict(places @ self.keys.T)
        return self.standing.completed(quality, std, without_direction(vectors), vectors, features)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `routers.protocol.Router.arrays`."""
        own = {"projection": self.projection, "keys": self.keys}
        return self.standing.arrays() | self.inputs.arrays() | self.lines.arrays() | own

    def meta(self) -> dict[str, Any]:
        """See `routers.protocol.Router.meta`."""
        return super().meta() | {"width": self.keys.shape[1]}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Self:
        """See `routers.protocol.Router.from_arrays`."""
        own = (arrays["projection"], arrays["keys"], Affine.from_arrays(arrays))
        return cls(Standing.from_arrays(arrays, meta), Inputs.from_arrays(arrays), *own)


def _unit(rows: F32) -> F32:
    units: F32 = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return units


def _first_keys(places: F32, outcomes: Outcomes, rng: np.random.Generator) -> F32:
    """Keys [M, D] that point to where the arms score above their means: equal arms start, and so stay, equal."""
    cell_weights = weights(outcomes)
    scores = np.where(cell_weights > 0, outcomes.quality, 0.0)
    means = (cell_weights * scores).sum(axis=0) / np.maximum(cell_weights.sum(axis=0), 1e-6)
    toward = np.where(cell_weights > 0, cell_weights * (scores - means), 0.0).T @ places
    somewhere = rng.normal(0.0, 1e-3, places.shape[1])
    return _unit((toward / np.maximum(cell_weights.sum(axis=0), 1e-6)[:, None] + somewhere).astype(np.float32))


def _contrasts(
    training: Outcomes, held_out: Outcomes, inputs: Inputs, clusters: int, seed: int
) -> tuple[Contrast, Contrast]:
    centers = centroids(training.vectors, max(1, min(clusters, len(training.vectors) // MIN_ROWS_PER_CLUSTER)), seed)
    groups = np.argmax(training.vectors @ centers.T, axis=1)
    means = quality_means(group_sums(training.quality, weights(training), groups, len(centers))).cells
    made = []
    for part in (training, held_out):
        group = np.argmax(part.vectors @ centers.T, axis=1)
        cell_weights = weights(part)
        seen = cell_weights > 0
        scores = np.where(seen, part.quality, means[group])
        good, bad = good_and_bad(scores.astype(np.float32))
        weight = np.where(seen, cell_weights, 1.0)
        z = inputs.transform(part.vectors, part.features)
        made.append(Contrast(z, (good * weight).astype(np.float32), bad.astype(np.float32), group))
    return made[0], made[1]


def good_and_bad(scores: F32) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which arms are good and which are bad for each query, bool [n, M] each and never both."""
    ranked = np.sort(scores, axis=1)
    place = min(PLACES, scores.shape[1])
    good = (scores >= ranked[:, -place, None]) & (scores > 0)
    bad = (scores <= ranked[:, place - 1, None]) & (scores < BAD)
    both = good & bad
    # Among few arms the same one may be third on both sides: it is good if it is better than the middle.
    better = both & (scores > np.median(scores, axis=1, keepdims=True))
    return good & ~(both & ~better), bad & ~better


def _descended(start: dict[str, F32], training: Contrast, held_out: Contrast, plan: Plan, seed: int) -> dict[str, F32]:
    torch = torch_module()
    parameters = as_parameters(start)
    z, good, bad = (torch.from_numpy(array) for array in training[:3])
    other = [torch.from_numpy(array) for array in held_out[:3]]
    draw = _companions(training.groups, np.random.default_rng(seed))

    def places(rows: Any) -> Any:
        return torch.nn.functional.normalize(rows @ parameters["projection"], dim=1)

    def sample_llm(at: Any, good: Any, bad: Any) -> Any:
        similarities = at @ torch.nn.functional.normalize(parameters["keys"], dim=1).T
        raised = torch.exp(similarities)
        against = (raised * bad).sum(dim=1, keepdim=True)
        losses = torch.log(raised + against) - similarities
        return (losses * good).sum() / good.sum().clamp(min=1e-6)

    def objective(chunk: Any) -> Any:
        at = places(z[chunk])
        near = torch.stack([(at * places(z[rows])).sum(dim=1) for rows in draw(chunk.numpy())])
        return sample_llm(at, good[chunk], bad[chunk]) - torch.log_softmax(near, dim=0)[0].mean()

    def held_out_loss() -> float:
        return float(sample_llm(places(other[0]), *other[1:]))

    return descended(parameters, objective, held_out_loss, len(z), plan, seed)


def _companions(
    groups: NDArray[np.intp], rng: np.random.Generator
) -> Callable[[NDArray[np.intp]], list[NDArray[np.intp]]]:
    """For some rows, a row of the same cluster for each, and then `PLACES` times one of another cluster."""
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)
    starts = np.cumsum(sizes) - sizes

    def drawn(rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        start, size = starts[groups[rows]], sizes[groups[rows]]
        found = [order[start + (rng.random(len(rows)) * size).astype(np.intp)]]
        for _ in range(PLACES):
            # Places in the order without the row's own cluster; one cluster alone contrasts with itself.
            rest = len(order) - size
            at = (rng.random(len(rows)) * np.where(rest > 0, rest, len(order))).astype(np.intp)
            found.append(order[np.where((rest > 0) & (at >= start), at + size, at)])
        return found

    return drawn
