"""What FusionFactory's baselines have in common: everything but their scores."""

from __future__ import annotations

from typing import Any, ClassVar

from routers.cost_scale import CostScale
from routers.published.labels import Surroundings
from routers.standing import BatchRouter


class PublishedRouter(BatchRouter):
    """Base of the published baselines, each of which is fitted for one preference."""

    name: ClassVar[str]
    fits_preference: ClassVar[bool] = True

    def __init__(self, surroundings: Surroundings) -> None:
        self.surroundings = surroundings
        self.arms = surroundings.arms
        self.encoder = surroundings.encoder
        self.dim = surroundings.dim
        self.cost_scale: CostScale = surroundings.cost_scale

    def meta(self) -> dict[str, Any]:
        """See `routers.protocol.Router.meta`."""
        return self.surroundings.meta(self.name)
