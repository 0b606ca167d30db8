"""All routers by name, and the way back from a stored artifact to a router."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Final

from encoders.features import FEATURE_SET
from registry.artifacts import Artifact, ArtifactError
from routers.protocol import Router

KIND = "router"
"""The kind of artifact that routers are stored as."""

PLACES: Final = {
    "ensemble": "routers.ensemble.router:EnsembleRouter",
    "cluster": "routers.classic.cluster:ClusterRouter",
    "knn": "routers.classic.knn:KnnRouter",
    "prior": "routers.prior:PriorRouter",
    "onboarded": "routers.onboarding.onboarded:OnboardedRouter",
    "ridge": "routers.classic.ridge:RidgeRouter",
    "irt": "routers.classic.irt:IrtRouter",
    "svr": "routers.classic.svr:SvrRouter",
    "gbm": "routers.classic.gbm:GbmRouter",
    "elo": "routers.classic.elo:EloRouter",
    "mf": "routers.classic.matrix_factorisation:MatrixFactorisationRouter",
    "published-knn": "routers.published.knn:PublishedKnnRouter",
    "published-svm": "routers.published.svm:PublishedSvmRouter",
    "mlp": "routers.neural.mlp:MlpRouter",
    "graphrouter": "routers.neural.graphrouter:GraphRouter",
    "routerdc": "routers.neural.routerdc:DualContrastiveRouter",
    "bert": "routers.neural.bert:BertRouter",
    "published-mlp": "routers.published.mlp:PublishedMlpRouter",
    "published-bert": "routers.published.bert:PublishedBertRouter",
    "published-graphrouter": "routers.published.graphrouter:PublishedGraphRouter",
}
"""Where each router is defined. A module may import nothing heavy outside of `fit`: the gateway loads it to predict."""


class Catalogue(Mapping[str, type[Router]]):
    """The routers by name, each imported when it is first asked for."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = dict(places)

    def __getitem__(self, name: str) -> type[Router]:
        module, _, cls = self._places[name].partition(":")
        found: type[Router] = getattr(import_module(module), cls)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


ROUTERS: Final = Catalogue(PLACES)


def load_router(artifact: Artifact, encoder_hash: str) -> Router:
    """The router of an artifact, for queries that the encoder with this hash has encoded.

    Raises
    ------
    ArtifactError: it is not a router, is of a kind this program does not know, or learned from another encoder's
        vectors or from feature blocks of another definition.
    """
    manifest = artifact.manifest
    if manifest.kind != KIND:
        raise ArtifactError(f"{manifest.version} is a {manifest.kind}, expected a {KIND}")
    router = ROUTERS.get(str(manifest.meta.get("router")))
    if router is None:
        raise ArtifactError(
            f"{manifest.version} needs the router {manifest.meta.get('router')!r}, this program has "
            f"{', '.join(ROUTERS)}; update it, or deploy another version"
        )
    if manifest.encoder != encoder_hash:
        raise ArtifactError(
            f"{manifest.version} learned from vectors of encoder {manifest.encoder}, this gateway encodes with "
            f"{encoder_hash}; train a router with this encoder, set `routers.encoder` back to the other one, or deploy "
            "another version (`tokamak deploy` lists them, `--roll-back` finds the last one that fits)"
        )
    learned_from = manifest.meta.get("feature_set")
    if learned_from not in (None, FEATURE_SET):
        raise ArtifactError(
            f"{manifest.version} learned from feature blocks {learned_from}, this program computes {FEATURE_SET}; "
            "train a router with this version of the program, or deploy another version (`tokamak deploy` lists them, "
            "`--roll-back` finds the last one that fits)"
        )
    try:
        return router.from_arrays(artifact.arrays, manifest.meta)
    except (KeyError, ValueError, TypeError) as error:
        raise ArtifactError(f"{manifest.version} lacks what its router needs ({error!r}); train it again") from error
