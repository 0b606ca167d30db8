"""The router versions that serve: the champion, and the one that is being tried, fitted to the pool of this process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from encoders.features import PLAIN, query_features
from encoders.protocol import Encoder
from registry.arms import Pool
from registry.artifacts import ArtifactError, Artifacts
from registry.rollouts import RolloutError, Rollouts, Trial
from routers.catalogue import KIND, load_router
from routers.lineup import Lineup
from routers.prior import prior_router

logger = logging.getLogger("tokamak.versions")

COLD_START = "prior@0"
PROBE = "What is 2 + 2?"
"""Asked of a version before it may serve."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to serve by the files: `champion` None is the cold start."""

    champion: str | None
    trial: Trial | None


class RouterVersions:
    """Finds and loads router versions. Everything here reads files: call it off the event loop."""

    def __init__(self, artifacts: Artifacts, pool: Pool, encoder: Callable[[], Encoder]) -> None:
        """`encoder` gives the encoder that serves."""
        self.artifacts = artifacts
        self.rollouts = Rollouts(artifacts, KIND, self.fits)
        self._pool = pool
        self._encoder = encoder
        self._told: str | None = None

    def wanted(self) -> Wanted:
        """What is to serve now. A rollout document that cannot be read ends the trial; the champion goes on.

        Raises
        ------
        ArtifactError: the pointer to the champion cannot be read.
        """
        try:
            rollout = self.rollouts.read()
        except RolloutError as error:
            if str(error) != self._told:
                logger.error("%s", error)
            self._told = str(error)
            return Wanted(self.artifacts.deployed(KIND), None)
        self._told = None
        return Wanted(rollout.champion, rollout.trial)

    def load(self, version: str | None, encoder: Encoder | None = None) -> Lineup:
        """A version on the arms of the pool; None is the cold start. Raises ArtifactError if it cannot serve."""
        encoder = encoder or self._encoder()
        prior = prior_router(self._pool, encoder.hash)
        arms = tuple(self._pool.arms.values())
        if version is None:
            return Lineup(prior, arms, prior)
        lineup = Lineup(load_router(self.artifacts.load(KIND, version), encoder.hash), arms, prior)
        _probe(lineup, encoder, version)
        return lineup

    def score_sources(self, version: str) -> tuple[str, ...] | None:
        """Of which sources the scores were that a version learned from, by its evidence.

        Empty if of any source, None for the cold start, which learned from none.
        """
        if version == COLD_START:
            return None
        source = self.artifacts.manifest(KIND, version).evidence.get("source") or {}
        return tuple(source.get("sources") or ())

    def fits(self, version: str) -> None:
        """Raise ArtifactError if the version is not there or cannot serve beside what serves."""
        self.load(version)


def _probe(lineup: Lineup, encoder: Encoder, version: str) -> None:
    """Let it predict once, as a request would."""
    try:
        prediction = lineup.predict(encoder.encode_one(PROBE), query_features(PROBE, PLAIN), PROBE)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        raise ArtifactError(f"{version} cannot predict ({error!r}); train it again") from error
    if not np.all(np.isfinite(prediction.quality)):
        raise ArtifactError(f"{version} predicts a quality that is not finite; train it again")
