"""Train a router: judged on held-out queries first, then learned from all of them, and published with that evidence."""

from __future__ import annotations

from typing import Any

import msgspec

from offline.evaluate_router import HELD_OUT, evaluate
from registry.artifacts import Artifacts, Manifest
from routers.catalogue import KIND, ROUTERS
from routers.protocol import Outcomes


def train(
    outcomes: Outcomes,
    router: str = "cluster",
    seed: int = 0,
    *,
    artifacts: Artifacts,
    deploy: bool = False,
    source: dict[str, Any] | None = None,
) -> Manifest:
    """Publish a router learned from the outcomes, and deploy it if asked to.

    The manifest's evidence holds `source` (where the outcomes came from, as the caller knows it), the size of the data,
    the split, and the `offline.evaluate_router.Evaluation` of the same router on the held-out part.

    Raises ------ TrainingError: too few outcomes (at least 50 scored queries and two arms with five answers each),
    outcomes that break
        their contract, or an unknown router.
    """
    evaluation = evaluate(outcomes, (router,), seed)
    final = ROUTERS[router].fit(outcomes, seed=seed)
    evidence = {
        "source": source or {},
        "split": {"held_out_share": HELD_OUT, "by": "content hash", "seed": seed},
        "evaluation": msgspec.to_builtins(evaluation),
    }
    manifest = artifacts.publish(KIND, router, final.arrays(), final.meta(), evidence)
    if deploy:
        artifacts.deploy(KIND, manifest.version)
    return manifest
