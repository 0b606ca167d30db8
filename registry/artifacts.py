"""Versioned, checksummed, immutable artifacts in a local folder, and the pointer to what is deployed.

    <root>/<kind>/<name>@<sha8>/manifest.json      what it is, its evidence, SHA-256 of the arrays
    <root>/<kind>/<name>@<sha8>/arrays.safetensors
    <root>/<kind>/deployed.json                    {"version": ..., "history": [...]}

A version is a digest of its content, so it never changes under its name. Everything is written beside its place and
renamed into it: a crash leaves the old state or the new one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a version is. `meta` is the maker's own; `evidence` holds data window, split and metrics."""

    kind: str
    name: str
    version: str
    created_at: float
    encoder: str | None
    arrays_sha256: str
    meta: dict[str, Any]
    evidence: dict[str, Any] = {}
    layout: int = 1


class Artifact(msgspec.Struct, frozen=True):
    manifest: Manifest
    arrays: dict[str, Any]


class ArtifactError(RuntimeError):
    """An artifact cannot be used: absent, corrupt, or made for another encoder. The message says what to do."""


class Artifacts:
    """The artifacts below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def publish(
        self, kind: str, name: str, arrays: Arrays, meta: dict[str, Any], evidence: dict[str, Any] | None = None
    ) -> Manifest:
        """Store a new version and return its manifest; the same content again returns the version that exists."""
        raise NotImplementedError

    def load(self, kind: str, version: str) -> Artifact:
        """Read and verify a version. Raises ArtifactError."""
        raise NotImplementedError

    def versions(self, kind: str) -> list[Manifest]:
        """All versions of a kind, oldest first. Unreadable ones raise ArtifactError."""
        raise NotImplementedError

    def deploy(self, kind: str, version: str) -> None:
        """Make a version the one that serves (after verifying that it loads). Raises ArtifactError."""
        raise NotImplementedError

    def deployed(self, kind: str) -> str | None:
        """The version that serves, or None."""
        raise NotImplementedError

    def roll_back(self, kind: str) -> str:
        """Deploy the version that served before; returns it. Raises ArtifactError if there is none."""
        raise NotImplementedError


_ = np
