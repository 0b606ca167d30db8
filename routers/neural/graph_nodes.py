"""The nodes and edges of `routers.neural.graphrouter`, and the maps between them; NumPy alone."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from routers.estimators.kmeans import centroids
from routers.estimators.shrinkage import ARM_STRENGTH, GROUP_STRENGTH
from routers.neural.heads import logit
from routers.protocol import F32

SHARPNESS = 20.0
HIDDEN, MIDDLE = 32, 32
LEAST_ROWS_PER_TASK = 20


class TaskNodes(NamedTuple):
    """`centers` float32 [K, d], unit rows."""

    centers: F32

    @classmethod
    def learned(cls, vectors: F32, count: int, seed: int) -> Self:
        return cls(centroids(vectors, max(1, min(count, len(vectors) // LEAST_ROWS_PER_TASK)), seed))

    def memberships(self, vectors: F32) -> F32:
        """How much each query belongs to each task, float32 [n, K], rows that sum to 1."""
        nearness = np.exp(SHARPNESS * (vectors @ self.centers.T - 1.0))
        shares: F32 = (nearness / nearness.sum(axis=1, keepdims=True)).astype(np.float32)
        return shares

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"task_centers": self.centers}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Self:
        return cls(arrays["task_centers"])


class Edges(NamedTuple):
    """All observed answers: `queries` [n, P + K] (inputs and memberships), `tau` [n, K], and per query and arm, [n, M],
    `scores`, `cost` in [0, 1] and `weights` (0 where nothing was observed; scores and costs are then 0)."""

    queries: F32
    tau: F32
    scores: F32
    cost: F32
    weights: F32


class Maps(NamedTuple):
    """All that descent learns, float32. D: width of a query's node; U: width of the LLM's hidden layer.

    `projection` [P + K, D]; `common` [D]; `edge` [3, D]; `alpha` [1]; `first` [D + K + 2, U], `first_bias` [U];
    `second` [U, D + 1], whose last column is the LLM's correction of its level.
    """

    projection: F32
    common: F32
    edge: F32
    alpha: F32
    first: F32
    first_bias: F32
    second: F32

    @classmethod
    def initial(cls, width: int, tasks: int, seed: int) -> Self:
        """Before any step the router is the table of tasks: what is learned starts from zero."""
        rng = np.random.default_rng(seed)
        node = HIDDEN + tasks + 2
        return cls(
            rng.normal(0.0, 1.0 / np.sqrt(width), (width, HIDDEN)).astype(np.float32),
            np.zeros(HIDDEN, dtype=np.float32),
            np.tile(np.array([[0.1], [3.0], [0.1]], dtype=np.float32), (1, HIDDEN)),
            np.array([4.0], dtype=np.float32),
            rng.normal(0.0, 1.0 / np.sqrt(node), (node, MIDDLE)).astype(np.float32),
            np.zeros(MIDDLE, dtype=np.float32),
            np.zeros((MIDDLE, HIDDEN + 1), dtype=np.float32),
        )

    def project(self, queries: F32) -> F32:
        """The queries' nodes, [n, D]."""
        nodes: F32 = queries @ self.projection
        return nodes

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {f"map_{field}": getattr(self, field) for field in self._fields}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Self:
        return cls(*(arrays[f"map_{field}"] for field in cls._fields))


class Nodes(NamedTuple):
    """The LLMs' nodes, compiled, float32.

    `vectors` [M, D]; `biases` [M]; `profiles` [M, K], times alpha; `levels` [M] the logits of the mean scores; `counts`
    [M, K] the effective number of answers in each task; `pool` [1] the mean score that levels were drawn to.
    """

    vectors: F32
    biases: F32
    profiles: F32
    levels: F32
    counts: F32
    pool: F32

    def beside(self, other: Nodes) -> Nodes:
        """These nodes and then the others; the pool stays."""
        joined = [np.concatenate(pair) for pair in zip(self, other, strict=True)]
        return Nodes(*joined)._replace(pool=self.pool)

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {f"node_{field}": getattr(self, field) for field in self._fields}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Self:
        return cls(*(arrays[f"node_{field}"] for field in cls._fields))


class Known(NamedTuple):
    """What is known of each LLM from its visible edges: `level` [M] (logit), `profiles`, `counts` [M, K], `cost` [M],
    `answers` [M] (their effective number), and per edge, [n, M], its `share` of the messages and its `residual` score.
    """

    level: F32
    profiles: F32
    counts: F32
    cost: F32
    answers: F32
    share: F32
    residual: F32


def known(edges: Edges, visible: F32, pool: float) -> Known:
    """Means and profiles from the visible edges; `visible` is their weights [n, M], 0 where hidden."""
    weight = visible.astype(np.float32)
    total = weight.sum(axis=0)
    safe = np.where(total > 0, total, 1.0)
    squares = np.square(weight).sum(axis=0)
    count = total**2 / np.where(squares > 0, squares, 1.0)
    # From here on weights sum to the effective number of observations.
    weight = weight * (count / safe)
    mean = ((weight * edges.scores).sum(axis=0) + ARM_STRENGTH * pool) / (count + ARM_STRENGTH)
    residual = np.where(weight > 0, edges.scores - mean, 0.0)
    counts = weight.T @ edges.tau
    profiles = (weight * residual).T @ edges.tau / (counts + GROUP_STRENGTH)
    cost = (weight * edges.cost).sum(axis=0) / np.where(count > 0, count, 1.0)
    share = weight / (count + ARM_STRENGTH)
    columns = (logit(mean), profiles, counts, cost, count, share, residual)
    return Known(*(np.ascontiguousarray(column, dtype=np.float32) for column in columns))


def llm_nodes(edges: Edges, maps: Maps, pool: F32 | None = None) -> Nodes:
    """The nodes of all LLMs from all their edges; `pool` (from other nodes) is what few answers are drawn to."""
    if pool is None:
        pool = np.array([(edges.weights * edges.scores).sum() / edges.weights.sum()], dtype=np.float32)
    found = known(edges, edges.weights, float(pool[0]))
    hidden = maps.project(edges.queries)
    parts = (found.share, found.share * found.residual, found.share * edges.cost)
    message = sum(gate * (part.T @ hidden) for gate, part in zip(maps.edge, parts, strict=True))
    node = np.hstack([message, 4.0 * found.profiles, found.level[:, None], found.cost[:, None]])
    out = np.tanh(node @ maps.first + maps.first_bias) @ maps.second
    # Of an LLM that has shown little, the network's opinion counts for little.
    trust = (found.answers / (found.answers + GROUP_STRENGTH))[:, None]
    out = out * trust
    vectors, biases = out[:, :-1], found.level + out[:, -1]
    columns = (vectors, biases, maps.alpha[0] * found.profiles, found.level, found.counts, pool)
    return Nodes(*(np.ascontiguousarray(column, dtype=np.float32) for column in columns))
