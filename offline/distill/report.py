"""What a distillation found, as it is written beside the model."""

from __future__ import annotations

import msgspec

from offline.distill.recipe import Recipe
from offline.distill.release import Verdict


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a distillation found. `weights`: average weight of each source; `scores` by model and domain are in
    `verdict.means`, higher is better. `seconds` by what they were spent on."""

    recipe: Recipe
    digest: str
    model: str
    verdict: Verdict
    weights: dict[str, float]
    domain_weights: dict[str, dict[str, float]]
    samples: int
    holdout: int
    left_out: dict[str, int]
    unscored: dict[str, dict[str, int]]
    bytes_per_token: dict[str, float]
    seconds: dict[str, float]
    created_at: float
