"""Descent on the maps of `routers.neural.graphrouter` with hidden edges. Needs torch; only fitting calls it."""

from __future__ import annotations

from typing import Any

import numpy as np

from routers.estimators.shrinkage import GROUP_STRENGTH
from routers.neural.early_stopping import Plan, as_arrays, as_parameters, descended, masked_loss, torch_module
from routers.neural.graph_nodes import Edges, Known, Maps, known, llm_nodes
from routers.neural.heads import log_loss, sigmoid
from routers.protocol import F32

SHOWN = 0.5
"""Share of the edges that are visible in a step; of every other LLM, fewer are, down to `FEWEST` answers."""
FEWEST = 8
BATCH, RATE, DECAY = 2048, 1e-3, 0.1
STEPS_PER_EPOCH, PATIENCE = 10, 6


def trained_maps(training: Edges, held_out: Edges, width: int, steps: int, seed: int) -> Maps:
    """The maps of the lowest loss on held-out queries, whose edges send no messages.

    One epoch of `descended` is `STEPS_PER_EPOCH` steps; a step draws its own queries and hides edges anew.
    """
    rng = np.random.default_rng(seed)
    parameters = as_parameters(Maps.initial(width, training.tau.shape[1], seed)._asdict())
    pool = float((training.weights * training.scores).sum() / training.weights.sum())

    def objective(_: Any) -> Any:
        rows = np.sort(rng.permutation(len(training.queries))[:BATCH])
        edges = Edges(*(matrix[rows] for matrix in training))
        shown = _shown(edges.weights, rng)
        found = known(edges, np.where(shown, edges.weights, 0.0).astype(np.float32), pool)
        hidden = np.where(shown, 0.0, edges.weights).astype(np.float32)
        return _loss(parameters, edges, found, hidden)

    def held_out_loss() -> float:
        maps = Maps(**as_arrays(parameters))
        return log_loss(predicted(held_out, training, maps), held_out.scores, held_out.weights)

    plan = Plan(max(1, steps // STEPS_PER_EPOCH), PATIENCE, 1, RATE, DECAY)
    return Maps(**descended(parameters, objective, held_out_loss, STEPS_PER_EPOCH, plan, seed))


def predicted(queries: Edges, messages: Edges, maps: Maps) -> F32:
    """Quality [n, M] of queries whose edges are hidden, from the messages of others."""
    nodes, hidden = llm_nodes(messages, maps), maps.project(queries.queries)
    logits = hidden @ nodes.vectors.T + queries.tau @ nodes.profiles.T
    return sigmoid(logits + (hidden @ maps.common)[:, None] + nodes.biases)


def _shown(weights: F32, rng: np.random.Generator) -> Any:
    """Which edges are visible, [n, M]."""
    rows, arms = weights.shape
    counts = np.maximum((weights > 0).sum(axis=0), 1)
    few = np.exp(rng.uniform(np.log(FEWEST), np.log(np.maximum(SHOWN * counts, FEWEST + 1.0))))
    rate = np.where(rng.random(arms) < 0.5, SHOWN, np.minimum(few / counts, SHOWN))
    return rng.random((rows, arms)) < rate


def _loss(parameters: dict[str, Any], edges: Edges, found: Known, weights: F32) -> Any:
    """Cross-entropy of the hidden edges' scores; the same sums as `llm_nodes` and `predicted`, with gradients."""
    torch = torch_module()
    of = torch.from_numpy
    hidden = of(edges.queries) @ parameters["projection"]
    parts = (found.share, found.share * found.residual, found.share * edges.cost)
    message = sum(parameters["edge"][i] * (of(part).T @ hidden) for i, part in enumerate(parts))
    profiles = of(found.profiles)
    node = torch.cat([message, 4.0 * profiles, of(found.level)[:, None], of(found.cost)[:, None]], dim=1)
    out = torch.tanh(node @ parameters["first"] + parameters["first_bias"]) @ parameters["second"]
    out = out * of(found.answers / (found.answers + GROUP_STRENGTH))[:, None]
    logits = hidden @ out[:, :-1].T + of(edges.tau) @ (parameters["alpha"] * profiles).T
    logits = logits + (hidden @ parameters["common"])[:, None] + of(found.level) + out[:, -1]
    return masked_loss(logits, of(edges.scores), of(weights)) / max(float(weights.sum()), 1e-6)
