"""All routers by name, and the way back from a stored artifact to a router."""

from __future__ import annotations

from registry.artifacts import Artifact, ArtifactError
from routers.cluster import ClusterRouter
from routers.knn import KnnRouter
from routers.prior import PriorRouter
from routers.protocol import Router

KIND = "router"
"""The kind of artifact that routers are stored as."""

ROUTERS: dict[str, type[Router]] = {router.name: router for router in (ClusterRouter, KnnRouter, PriorRouter)}


def load_router(artifact: Artifact, encoder_hash: str) -> Router:
    """The router of an artifact, for queries that the encoder with this hash has encoded.

    Raises ------ ArtifactError: it is not a router, is of a kind this program does not know, or learned from another
    encoder's vectors.
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
            f"{encoder_hash}; train a router with this encoder, or set `routers.encoder` back to the other one"
        )
    try:
        return router.from_arrays(artifact.arrays, manifest.meta)
    except (KeyError, ValueError, TypeError) as error:
        raise ArtifactError(f"{manifest.version} lacks what its router needs ({error!r}); train it again") from error
