"""Small worlds to learn from: topics that lie apart, and arms that are each good at some of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from registry.arms import Endpoint, Model, Pool, Prices, Upstream, Way
from routers.protocol import Outcomes

TOPICS = 4
DIM = 32


def topic_vectors(topics: NDArray[np.intp], seed: int) -> NDArray[np.float32]:
    """Unit vectors near the axis of each query's topic."""
    vectors = 0.1 * np.random.default_rng(seed).standard_normal((len(topics), DIM))
    vectors[np.arange(len(topics)), topics] += 1.0
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def skills(arms: int) -> NDArray[np.float64]:
    """True quality [topics, arms]: arm i is good at topic i, the last arm is fair at all of them."""
    table = np.full((TOPICS, arms), 0.15)
    for arm in range(min(arms, TOPICS)):
        table[arm, arm] = 0.9
    table[:, -1] = 0.5
    return table


VOCABULARY = (
    ("integral", "matrix", "prime", "theorem", "angle", "solve"),
    ("function", "python", "loop", "compile", "class", "bug"),
    ("river", "capital", "war", "king", "century", "treaty"),
    ("poem", "novel", "verse", "actor", "stage", "rhyme"),
)
"""Words of each topic."""
FILLER = ("the", "of", "what", "is", "in", "a")


def topic_texts(topics: NDArray[np.intp], seed: int) -> tuple[str, ...]:
    """A few words of each query's topic, among words that say nothing."""
    rng = np.random.default_rng(seed)
    texts = []
    for topic in topics.tolist():
        words = [*rng.choice(VOCABULARY[topic], size=3), *rng.choice(FILLER, size=rng.integers(2, 8))]
        texts.append(" ".join(rng.permutation(words).tolist()))
    return tuple(texts)


def world(rows: int = 400, arms: int = 5, seed: int = 0, tasks: bool = False) -> Outcomes:
    """Every arm's answer to every query, with costs of 1, 2, 3, ... milli-USD, doubled in the last topic."""
    rng = np.random.default_rng(seed)
    topics = rng.integers(TOPICS, size=rows)
    quality = (rng.random((rows, arms)) < skills(arms)[topics]).astype(np.float32)
    cost = 1e-3 * (1.0 + np.arange(arms)) * np.where(topics == TOPICS - 1, 2.0, 1.0)[:, None]
    return Outcomes(
        vectors=topic_vectors(topics, seed + 1),
        arms=tuple(f"arm-{i}" for i in range(arms)),
        quality=quality,
        cost_usd=(cost * rng.uniform(0.9, 1.1, cost.shape)).astype(np.float32),
        latency_s=np.full((rows, arms), np.nan, dtype=np.float32),
        propensity=np.ones((rows, arms), dtype=np.float32),
        encoder="0123456789abcdef",
        query_ids=tuple(f"query-{seed}-{i}" for i in range(rows)),
        tasks=tuple(f"topic-{topic}" for topic in topics.tolist()) if tasks else None,
        texts=topic_texts(topics, seed + 2),
    )


def masked(outcomes: Outcomes, seed: int = 0, favourite: int = 0, share: float = 0.6) -> Outcomes:
    """What a log would hold: one answer per query, `favourite` drawn with probability `share`, else a uniform arm."""
    rng = np.random.default_rng(seed)
    rows, arms = outcomes.quality.shape
    propensities = np.full(arms, (1.0 - share) / arms)
    propensities[favourite] += share
    drawn = rng.choice(arms, size=rows, p=propensities)
    seen = np.zeros((rows, arms), dtype=bool)
    seen[np.arange(rows), drawn] = True

    def only_seen(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.where(seen, matrix, np.nan).astype(np.float32)

    return Outcomes(
        vectors=outcomes.vectors,
        arms=outcomes.arms,
        quality=only_seen(outcomes.quality),
        cost_usd=only_seen(outcomes.cost_usd),
        latency_s=only_seen(outcomes.latency_s),
        propensity=only_seen(np.tile(propensities, (rows, 1)).astype(np.float32)),
        encoder=outcomes.encoder,
        query_ids=outcomes.query_ids,
        tasks=outcomes.tasks,
        texts=outcomes.texts,
    )


def model(
    name: str, prompt: float | None = 1.0, prior: float | None = None, ways: tuple[Way, ...] = ("direct",)
) -> Model:
    """A model that costs `prompt` USD per million prompt tokens and twice that per million of the answer."""
    endpoint = Endpoint(Upstream("up", "http://127.0.0.1:1/v1"), name)
    prices = Prices() if prompt is None else Prices(prompt, 2 * prompt)
    return Model(name, (endpoint,), ways=ways, prices=prices, quality_prior=prior)


def pool(*models: Model) -> Pool:
    return Pool(models)
