"""Train a router: judged on held-out queries first, then learned from all of them, and published with that evidence."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final

import msgspec
import numpy as np

from offline.routing.evaluate import HELD_OUT, fit_and_judge
from registry.artifacts import Artifacts, Manifest
from routers.catalogue import KIND, ROUTERS, load_router
from routers.protocol import Outcomes, Router, TrainingError

Judge = Callable[[Router], dict[str, Any]]
"""Further evidence about a router that has not seen the held-out queries."""


DEFAULT: Final = "ensemble"
"""The default router where everything is installed that learning needs."""


def default_router() -> str:
    """The router that is trained unless another one is named; in a base install the best that it can fit."""
    return DEFAULT if find_spec("sklearn") is not None else "cluster"


def train(
    outcomes: Outcomes,
    router: str = "cluster",
    seed: int = 0,
    *,
    artifacts: Artifacts,
    deploy: bool = False,
    source: dict[str, Any] | None = None,
    off_policy: Judge | None = None,
    told: Callable[[str, float], None] = lambda step, progress: None,
) -> Manifest:
    """Publish a router learned from the outcomes, and deploy it if asked to.

    The manifest's evidence holds `source` (where the outcomes came from, as the caller knows it), the size of the data,
    the split, the `offline.routing.evaluate.Evaluation` of the same router on the held-out part, and what `off_policy`
    says of it. `told` hears of each step, and how much of the work is done in [0, 1]. The same outcomes and seed give
    the same version, so a training that was cut off may simply be run again.

    Raises
    ------
    TrainingError: too few outcomes (at least 50 scored queries and two arms with five answers each), scores that are
        all equal, outcomes that break their contract, or an unknown router.
    ArtifactError: the version cannot be stored, or not be loaded again.
    """
    require_distinct(outcomes)
    told("judging on held-out queries", 0.2)
    fitted, evaluation = fit_and_judge(outcomes, (router,), seed)
    judged = None
    if off_policy is not None:
        told("comparing with the champion by the log", 0.5)
        judged = off_policy(fitted[router])
    told("learning from all queries", 0.7)
    final = ROUTERS[router].fit(outcomes, seed=seed)
    evidence = {
        "source": source or {},
        "split": {"held_out_share": HELD_OUT, "by": "content hash", "seed": seed},
        "evaluation": msgspec.to_builtins(evaluation),
        "encoder": outcomes.encoder,
        "feature_set": outcomes.feature_set,
    }
    if judged is not None:
        evidence["off_policy"] = judged
    told("publishing", 0.9)
    manifest = artifacts.publish(KIND, router, final.arrays(), final.meta(), evidence)
    # What cannot be loaded again must not become anybody's candidate.
    load_router(artifacts.load(KIND, manifest.version), outcomes.encoder)
    if deploy:
        artifacts.deploy(KIND, manifest.version)
    return manifest


def require_distinct(outcomes: Outcomes) -> None:
    """Raise TrainingError if all scores are equal: nothing tells the arms apart, and any router would be luck."""
    known = outcomes.quality[~np.isnan(outcomes.quality)]
    if known.size > 1 and np.all(known == known[0]):
        raise TrainingError(
            f"all {known.size} scores are {known[0]:g}, so nothing tells the arms apart; score with a finer measure, "
            "or more answers"
        )
