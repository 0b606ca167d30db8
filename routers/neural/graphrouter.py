"""GraphRouter made inductive: a graph of tasks, queries and LLMs whose message passing compiles to two matrices.

    task nodes   t    clusters of queries; a query belongs to them by a softmax of cosines, tau(q)
    query nodes  i    h_i = W [z_i, tau_i],  z the vector and features, standardised
    LLM nodes    m    known of an arm: its mean score, its cost, its mean residual score in each task
    edges i -> m      an observed answer, with [1, score residual, cost]

    message   a_m = mean over edges of h_i * (e_0 + e_1 residual_im + e_2 cost_im)
    LLM       u_m, c_m = MLP([a_m, node features])
    quality   sigmoid( level_m + alpha tau_i . profile_m + g . h_i + h_i . u_m + c_m )

Edges point from queries to LLMs only, so a query's node is a linear map of what is known before it is asked, and an
LLM's is a vector: nothing of the graph is needed to predict. In every step some edges are hidden, the LLMs' nodes
(means, profiles and messages) are made from the visible ones, and the loss is the cross-entropy of the hidden ones'
scores. How many edges an LLM shows varies from few to half, so the same maps give a vector to an LLM that was never
trained on, from however many answers there are of it (`with_new_arm`).

After GraphRouter (Feng et al., 2024) in the setting of FusionFactory (2025). What differs: scores instead of argmax
labels, masked cells with inverse-propensity weights, clusters for task labels (which production queries lack), messages
that multiply with the edge instead of adding to it, held-out queries instead of test queries for stopping, hundreds of
steps instead of 70. `published-graphrouter` is the one without these changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from routers.cost_scale import CostScale
from routers.expense import Expense
from routers.inputs import Inputs
from routers.neural.early_stopping import can_stop, inner_split
from routers.neural.graph_nodes import Edges, Maps, Nodes, TaskNodes, llm_nodes
from routers.neural.graph_training import trained_maps
from routers.neural.heads import LEAST_STD, sigmoid
from routers.protocol import F32, Outcomes, Prediction, TrainingError
from routers.rows import prepared, weights
from routers.standing import Standing, StandingRouter, require_settings, without_direction

SETTINGS = ("tasks", "steps")
TASKS, STEPS, RANK = 24, 600, 64
NOISE = 0.2
"""Variance of one score about its mean, where a standard error is asked for."""
LOCAL_STRENGTH = 20.0
"""Observations that everything else counts for in a standard error, beside those of the arm in the query's tasks."""


class Network(NamedTuple):
    """What reads a query: `inputs`, `tasks`, and the projection inside `maps`."""

    inputs: Inputs
    tasks: TaskNodes
    maps: Maps


class GraphRouter(StandingRouter):
    """Predicts from the query's projection and one vector per LLM."""

    name: ClassVar[str] = "graphrouter"

    def __init__(self, standing: Standing, network: Network, nodes: Nodes) -> None:
        super().__init__(standing)
        self.network = network
        self.nodes = nodes

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """See `routers.protocol.Router.fit`. Settings: `tasks` (clusters, 24) and `steps` (of descent, 600 at most)."""
        require_settings(cls.name, settings, SETTINGS)
        outcomes = prepared(outcomes)
        count, steps = int(settings.get("tasks", TASKS)), int(settings.get("steps", STEPS))
        inputs, tasks = Inputs.learned(outcomes, RANK), TaskNodes.learned(outcomes.vectors, count, seed)
        standing = Standing.learned(outcomes)
        training, held_out = inner_split(outcomes, seed)
        width = inputs.width + len(tasks.centers)
        if can_stop(training, held_out):
            scale = standing.expense.cost_scale
            graph, judge = (_edges(part, inputs, tasks, scale) for part in (training, held_out))
            maps = trained_maps(graph, judge, width, steps, seed)
        else:
            maps = Maps.initial(width, len(tasks.centers), seed)
        network = Network(inputs, tasks, maps)
        nodes = llm_nodes(_edges(outcomes, inputs, tasks, standing.expense.cost_scale), maps)
        return cls(standing, network, nodes)

    def with_new_arm(self, outcomes: Outcomes) -> Self:
        """The router with one arm more, without training: its node is made from its edges by the maps as they are.

        Parameters
        ----------
        outcomes: of the new arm alone, M = 1; encoded (and described by features) as the training data were.

        Raises
        ------
        TrainingError: several arms, an arm that is already known, or vectors of another encoder.
        """
        if len(outcomes.arms) != 1 or outcomes.arms[0] in self.arms:
            raise TrainingError(f"expected the outcomes of one new arm, got {', '.join(outcomes.arms)}")
        if (outcomes.encoder, outcomes.vectors.shape[-1]) != (self.encoder, self.dim):
            raise TrainingError(f"the new arm's vectors are of encoder {outcomes.encoder}, expected {self.encoder}")
        outcomes = prepared(outcomes)
        edges = _edges(outcomes, self.network.inputs, self.network.tasks, self.cost_scale)
        added = llm_nodes(edges, self.network.maps, self.nodes.pool)
        own = Standing.learned(outcomes)
        means = (np.append(self.standing.quality, sigmoid(added.levels)), np.append(self.standing.std, own.std))
        grown = Standing(
            self.arms + outcomes.arms,
            self.encoder,
            self.dim,
            self.standing.feature_set,
            means[0].astype(np.float32),
            means[1].astype(np.float32),
            _with_levels(self.standing.expense, own.expense),
        )
        return type(self)(grown, self.network, self.nodes.beside(added))

    def predict_batch(
        self, vectors: F32, features: F32 | None = None, texts: Sequence[str | None] | None = None
    ) -> Prediction:
        """See `routers.protocol.Router.predict_batch`."""
        network, nodes = self.network, self.nodes
        tau = network.tasks.memberships(vectors)
        hidden = network.maps.project(np.hstack([network.inputs.transform(vectors, features), tau]))
        logits = hidden @ nodes.vectors.T + tau @ nodes.profiles.T
        logits += (hidden @ network.maps.common)[:, None] + nodes.biases
        quality = sigmoid(logits)
        count = tau @ nodes.counts.T + LOCAL_STRENGTH
        variance = NOISE / count + (LOCAL_STRENGTH / count) ** 2 * np.square(self.standing.std)
        std = np.maximum(np.sqrt(variance), LEAST_STD)
        return self.standing.completed(quality, std, without_direction(vectors), vectors, features)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `routers.protocol.Router.arrays`."""
        network = self.network
        own = network.tasks.arrays() | network.maps.arrays() | self.nodes.arrays()
        return self.standing.arrays() | network.inputs.arrays() | own

    def meta(self) -> dict[str, Any]:
        """See `routers.protocol.Router.meta`."""
        return super().meta() | {"tasks": len(self.network.tasks.centers)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Self:
        """See `routers.protocol.Router.from_arrays`."""
        network = Network(Inputs.from_arrays(arrays), TaskNodes.from_arrays(arrays), Maps.from_arrays(arrays))
        return cls(Standing.from_arrays(arrays, meta), network, Nodes.from_arrays(arrays))


def _edges(outcomes: Outcomes, inputs: Inputs, tasks: TaskNodes, scale: CostScale) -> Edges:
    tau = tasks.memberships(outcomes.vectors)
    queries = np.hstack([inputs.transform(outcomes.vectors, outcomes.features), tau])
    cost = np.nan_to_num(scale.positions(outcomes.cost_usd)).astype(np.float32)
    return Edges(queries, tau, np.nan_to_num(outcomes.quality), cost, weights(outcomes))


def _with_levels(expense: Expense, added: Expense) -> Expense:
    """The expense of one arm more, whose cost and latency follow the query as those of the others do on average."""
    arms = len(expense.level) // 2
    at = [arms, 2 * arms]
    slope = expense.slope
    halves = [slope[:, :arms].mean(axis=1), slope[:, arms:].mean(axis=1)]
    return Expense(
        expense.inputs,
        np.ascontiguousarray(np.insert(slope, at, np.stack(halves, axis=1), axis=1)),
        np.insert(expense.level, at, added.level),
        expense.cost_scale,
    )
