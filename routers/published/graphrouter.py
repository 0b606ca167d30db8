"""FusionFactory's GraphRouter as published: edges from queries to LLMs, and the argmax edge to be told from the others.

    h_q = [W_t e_task, W_q e_query],  h_m = W_m e_m,  in R^16;   a' = leaky_relu(W_e [R, C~, P~])
    x1 = leaky_relu(BN(conv(h, a'))),  x2 = BN(conv(x1, a')),   conv(x)_m = x_m + sum over edges (V x_q + U a' + b)
    s = sigmoid(mean over d of h_qd x2_md),   loss: cross-entropy of s with "m is q's argmax" on the hidden edges

Half of the edges are hidden in every pass; AdamW, step size and decay 1e-4, 70 steps. All training edges send messages
when it serves. The last step is kept: the published code picks the step by its test set.

Not as published: a step averages 16 random maskings, not 640 (their mean differs in noise alone; set `maskings`). Texts
of tasks and LLMs are not in a log, so a task's vector is its queries' mean (a query without a label belongs to the
nearest), an LLM's is its own column of a unit matrix, and queries have the encoder's vectors (there: Longformer).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routers.neural.early_stopping import as_parameters, torch_module
from routers.neural.heads import sigmoid
from routers.protocol import F32, Outcomes, Prediction
from routers.published.base import PublishedRouter
from routers.published.labels import Reward, Surroundings, rewards, whole_rows
from routers.standing import require_settings

SETTINGS = ("preference", "maskings", "steps")
MASKINGS, STEPS = 16, 70
HALF = 8
WIDTH = 2 * HALF
RATE, DECAY, HIDDEN_SHARE, MOMENTUM, EPSILON = 1e-4, 1e-4, 0.5, 0.1, 1e-5


class PublishedGraphRouter(PublishedRouter):
    """Predicts from the query's projection, its task's, and one vector per LLM."""

    name: ClassVar[str] = "published-graphrouter"

    def __init__(self, surroundings: Surroundings, query: F32, centers: F32, tasks: F32, arms: F32) -> None:
        """`query` [d + 1, 8], with the bias; `centers` [T, d], unit rows; `tasks` [T, 8]; `arms` [M, 16]."""
        super().__init__(surroundings)
        self.query = query
        self.centers = centers
        self.tasks = tasks
        self.nodes = arms

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """See `routers.protocol.Router.fit`. Settings: `preference` (weight of score, 1.0), `maskings`, `steps`."""
        require_settings(cls.name, settings, SETTINGS)
        preference = float(settings.get("preference", 1.0))
        outcomes = whole_rows(outcomes, preference)
        found = _Graph(outcomes, rewards(outcomes, preference), seed)
        found.descend(int(settings.get("steps", STEPS)), int(settings.get("maskings", MASKINGS)))
        return cls(Surroundings.learned(outcomes, preference), *found.compiled())

    def predict_batch(
        self, vectors: F32, features: F32 | None = None, texts: Sequence[str | None] | None = None
    ) -> Prediction:
        """See `routers.protocol.Router.predict_batch`."""
        task = np.argmax(vectors @ self.centers.T, axis=1)
        hidden = np.hstack([self.tasks[task], vectors @ self.query[:-1] + self.query[-1]])
        return self.surroundings.completed(sigmoid(hidden @ self.nodes.T / WIDTH))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `routers.protocol.Router.arrays`."""
        own = {"query": self.query, "centers": self.centers, "tasks": self.tasks, "nodes": self.nodes}
        return self.surroundings.arrays() | own

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Self:
        """See `routers.protocol.Router.from_arrays`."""
        own = (arrays[name] for name in ("query", "centers", "tasks", "nodes"))
        return cls(Surroundings.from_arrays(arrays, meta), *own)


class _Graph:
    """The graph of the training data, its parameters, and its batch normalisations' running moments."""

    def __init__(self, outcomes: Outcomes, reward: Reward, seed: int) -> None:
        torch = torch_module()
        names = np.array(outcomes.tasks if outcomes.tasks is not None else [""] * len(outcomes.query_ids))
        known, task = np.unique(names, return_inverse=True)
        means = np.stack([outcomes.vectors[task == t].mean(axis=0) for t in range(len(known))])
        self.centers: F32 = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-6)
        self.task_vectors = torch.from_numpy(self.centers)
        self.vectors = torch.from_numpy(outcomes.vectors)
        self.task = torch.from_numpy(task.reshape(-1))
        edges = np.stack([reward.reward, reward.cost, reward.score], axis=2).astype(np.float32)
        self.edges = torch.from_numpy(edges)
        arms = len(outcomes.arms)
        self.target = torch.nn.functional.one_hot(torch.from_numpy(reward.label), arms).float()
        self.generator = torch.Generator().manual_seed(seed)
        self.parameters = as_parameters(_initial(outcomes.vectors.shape[1], arms, np.random.default_rng(seed)))
        self.moments = [(torch.zeros(WIDTH), torch.ones(WIDTH)) for _ in range(2)]

    def descend(self, steps: int, maskings: int) -> None:
        torch = torch_module()
        optimiser = torch.optim.AdamW(list(self.parameters.values()), lr=RATE, weight_decay=DECAY)
        for _ in range(steps):
            optimiser.zero_grad()
            for _ in range(maskings):
                hidden = torch.rand(self.target.shape, generator=self.generator) < HIDDEN_SHARE
                queries, nodes = self._nodes(hidden.logical_not().float(), training=True)
                logits = queries @ nodes.T / WIDTH
                losses = torch.nn.functional.binary_cross_entropy_with_logits(
                    logits[hidden], self.target[hidden], reduction="mean"
                )
                # One masking's graph is freed before the next is made; gradients add up.
                (losses / maskings).backward()
            optimiser.step()

    def compiled(self) -> tuple[F32, F32, F32, F32]:
        """See `PublishedGraphRouter.__init__`."""
        torch = torch_module()
        with torch.no_grad():
            _, nodes = self._nodes(torch.ones_like(self.target), training=False)
            tasks = self.task_vectors @ self.parameters["task"] + self.parameters["task_bias"]
            query = torch.vstack([self.parameters["query"], self.parameters["query_bias"]])
        a, b, c = (np.ascontiguousarray(tensor.numpy(), dtype=np.float32) for tensor in (query, tasks, nodes))
        return a, self.centers, b, c

    def _nodes(self, visible: Any, training: bool) -> tuple[Any, Any]:
        """Query nodes [N, 16] before, and LLM nodes [M, 16] after the two convolutions."""
        functional, own = torch_module().nn.functional, self.parameters
        task = (self.task_vectors @ own["task"] + own["task_bias"])[self.task]
        queries = torch_module().hstack([task, self.vectors @ own["query"] + own["query_bias"]])
        attributes = functional.leaky_relu(self.edges @ own["edge"] + own["edge_bias"])
        summed = (attributes * visible[:, :, None]).sum(dim=0)
        count = visible.sum(dim=0)[:, None]
        at, arms = queries, own["arm"]
        for layer in range(2):
            sent = (visible.T @ at) @ own[f"message{layer}"] + summed @ own[f"attribute{layer}"]
            arms = arms + sent + count * own[f"bias{layer}"]
            at, arms = self._normalised(at, arms, layer, training)
            if layer == 0:
                at, arms = functional.leaky_relu(at), functional.leaky_relu(arms)
        return queries, arms

    def _normalised(self, queries: Any, arms: Any, layer: int, training: bool) -> tuple[Any, Any]:
        """Batch normalisation over all nodes of the graph."""
        torch = torch_module()
        nodes = torch.vstack([queries, arms])
        mean, variance = self.moments[layer]
        gain, shift = self.parameters[f"gain{layer}"], self.parameters[f"shift{layer}"]
        nodes = torch.nn.functional.batch_norm(nodes, mean, variance, gain, shift, training, MOMENTUM, EPSILON)
        return nodes[: len(queries)], nodes[len(queries) :]


def _initial(dim: int, arms: int, rng: np.random.Generator) -> dict[str, F32]:
    """As torch initialises linear layers: uniform, within the inverse root of the number of inputs."""

    def uniform(inputs: int, *shape: int) -> F32:
        bound = inputs**-0.5
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    start = {
        "task": uniform(dim, dim, HALF),
        "task_bias": uniform(dim, HALF),
        "query": uniform(dim, dim, HALF),
        "query_bias": uniform(dim, HALF),
        "arm": uniform(arms, arms, WIDTH),
        "edge": uniform(3, 3, 3),
        "edge_bias": uniform(3, 3),
    }
    for layer in range(2):
        start |= {
            f"message{layer}": uniform(WIDTH, WIDTH, WIDTH),
            f"attribute{layer}": uniform(3, 3, WIDTH),
            f"bias{layer}": uniform(WIDTH, WIDTH),
            f"gain{layer}": np.ones(WIDTH, dtype=np.float32),
            f"shift{layer}": np.zeros(WIDTH, dtype=np.float32),
        }
    return start
