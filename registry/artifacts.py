"""Versioned, checksummed, immutable artifacts in a local folder, and the pointer to what is deployed.

    <root>/<kind>/<name>@<sha8>/manifest.json      what it is, its evidence, SHA-256 of the arrays
    <root>/<kind>/<name>@<sha8>/arrays.safetensors
    <root>/<kind>/deployed.json                    {"version": ..., "history": [...]}

A version is a digest of its content, so it never changes under its name. Everything is written beside its place and
renamed into it: a crash leaves the old state or the new one.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from registry.atomic_files import LEFTOVER, locked, place_file, place_folder, sync_folder

Arrays = dict[str, NDArray[Any]]

LAYOUT = 1
MANIFEST_FILE = "manifest.json"
ARRAYS_FILE = "arrays.safetensors"
POINTER_FILE = "deployed.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
VERSION = re.compile(NAME.pattern + r"@[0-9a-f]{8}")
LEFTOVER_AGE_S = 86_400.0


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
    layout: int = LAYOUT


class Artifact(msgspec.Struct, frozen=True):
    manifest: Manifest
    arrays: dict[str, Any]


class ArtifactError(RuntimeError):
    """An artifact cannot be used: absent, corrupt, or made for another encoder. The message says what to do."""


class ArtifactMissing(ArtifactError):
    """There is no such version."""


class Pointer(msgspec.Struct, frozen=True):
    """What serves now, and what served before it, oldest first."""

    version: str
    history: tuple[str, ...] = ()


class Artifacts:
    """The artifacts below one folder. Several processes may publish, deploy and read at the same time."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def publish(
        self, kind: str, name: str, arrays: Arrays, meta: dict[str, Any], evidence: dict[str, Any] | None = None
    ) -> Manifest:
        """Store a new version and return its manifest; the same content again returns the version that exists.

        `meta["encoder"]`, if there is one, becomes the manifest's `encoder`.

        Raises
        ------
        ArtifactError: the name or kind is not a plain word, an array has a type that safetensors does not hold, or
            `meta` or `evidence` is not JSON.
        """
        folder = self._folder(kind)
        if not NAME.fullmatch(name):
            raise ArtifactError(f"artifact name must match {NAME.pattern}, got {name!r}")
        blob = _packed(arrays)
        digest = hashlib.sha256(blob).hexdigest()
        identity = _json([kind, name, LAYOUT, digest, meta, evidence or {}], sort=True)
        manifest = Manifest(
            kind=kind,
            name=name,
            version=f"{name}@{hashlib.sha256(identity).hexdigest()[:8]}",
            created_at=time.time(),
            encoder=meta.get("encoder"),
            arrays_sha256=digest,
            meta=meta,
            evidence=evidence or {},
        )
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            if (folder / manifest.version).exists():
                try:
                    return self.load(kind, manifest.version).manifest
                except ArtifactError:
                    _remove(folder / manifest.version)
            _sweep(folder)
            place_folder(folder / manifest.version, {ARRAYS_FILE: blob, MANIFEST_FILE: _json(manifest)})
        return manifest

    def load(self, kind: str, version: str) -> Artifact:
        """Read and verify a version. Raises ArtifactError."""
        folder = self._version_folder(kind, version)
        manifest = self._manifest(kind, version)
        try:
            blob = (folder / ARRAYS_FILE).read_bytes()
        except OSError as error:
            raise ArtifactError(f"{folder / ARRAYS_FILE} cannot be read ({error}); {_RETRAIN}") from error
        found = hashlib.sha256(blob).hexdigest()
        if found != manifest.arrays_sha256:
            raise ArtifactError(
                f"{folder / ARRAYS_FILE} is truncated or corrupt: expected SHA-256 {manifest.arrays_sha256[:16]}..., "
                f"got {found[:16]}... ({len(blob)} bytes); {_RETRAIN}"
            )
        try:
            arrays = load_arrays(blob)
        except (SafetensorError, ValueError, KeyError) as error:
            raise ArtifactError(f"{folder / ARRAYS_FILE} is not a safetensors file ({error}); {_RETRAIN}") from error
        return Artifact(manifest, arrays)

    def versions(self, kind: str) -> list[Manifest]:
        """All versions of a kind, oldest first. Unreadable ones raise ArtifactError."""
        found = [self._manifest(kind, name) for name in self.names(kind)]
        return sorted(found, key=lambda manifest: (manifest.created_at, manifest.version))

    def names(self, kind: str) -> list[str]:
        """The names of all versions of a kind, sorted, readable or not."""
        folder = self._folder(kind)
        names = [entry.name for entry in os.scandir(folder)] if folder.is_dir() else []
        return sorted(name for name in names if VERSION.fullmatch(name))

    def deploy(self, kind: str, version: str) -> None:
        """Make a version the one that serves (after verifying that it loads). Raises ArtifactError."""
        self.load(kind, version)
        with locked(self._folder(kind)):
            now = self._pointer(kind)
            if now is None:
                self._point(kind, Pointer(version))
            elif now.version != version:
                self._point(kind, Pointer(version, (*now.history, now.version)))

    def deployed(self, kind: str) -> str | None:
        """The version that serves, or None. Raises ArtifactError if the pointer is corrupt."""
        pointer = self._pointer(kind)
        return None if pointer is None else pointer.version

    def roll_back(self, kind: str, version: str | None = None) -> str:
        """Deploy the version that served before, or the `version` further back; returns it.

        Raises ArtifactError if there is none, or `version` never served.
        """
        folder = self._folder(kind)
        if not folder.is_dir():
            raise ArtifactError(f"no {kind} was ever deployed below {self.root}; there is nothing to roll back")
        with locked(folder):
            now = self._pointer(kind)
            if now is None or not now.history:
                raise ArtifactError(f"no earlier {kind} was deployed below {self.root}; deploy a version by its name")
            back = now.history[-1] if version is None else version
            if back not in now.history:
                raise ArtifactError(f"{back} has not served before; these have: {', '.join(now.history)}")
            self.load(kind, back)
            last = max(place for place, earlier in enumerate(now.history) if earlier == back)
            self._point(kind, Pointer(back, now.history[:last]))
            return back

    def history(self, kind: str) -> tuple[str, ...]:
        """The versions that served before the one that serves, oldest first."""
        pointer = self._pointer(kind)
        return () if pointer is None else pointer.history

    def withdraw(self, kind: str) -> None:
        """Let none of the versions serve, as before the first was deployed. They are all kept."""
        folder = self._folder(kind)
        if folder.is_dir():
            with locked(folder):
                (folder / POINTER_FILE).unlink(missing_ok=True)
                sync_folder(folder)

    def manifest(self, kind: str, version: str) -> Manifest:
        """What a version says of itself, without reading its arrays. Raises ArtifactError."""
        return self._manifest(kind, version)

    def _folder(self, kind: str) -> Path:
        if not NAME.fullmatch(kind):
            raise ArtifactError(f"artifact kind must match {NAME.pattern}, got {kind!r}")
        return self.root / kind

    def _version_folder(self, kind: str, version: str) -> Path:
        folder = self._folder(kind)
        if not VERSION.fullmatch(version):
            raise ArtifactMissing(f"a version looks like name@0123abcd, got {version!r}")
        if not (folder / version).is_dir():
            there = self.names(kind)
            raise ArtifactMissing(f"no {kind} {version} below {self.root}; there are: {', '.join(there) or 'none'}")
        return folder / version

    def _manifest(self, kind: str, version: str) -> Manifest:
        path = self._version_folder(kind, version) / MANIFEST_FILE
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        except (OSError, msgspec.DecodeError) as error:
            raise ArtifactError(f"{path} cannot be read ({error}); {_RETRAIN}") from error
        if manifest.layout != LAYOUT:
            raise ArtifactError(f"{path} has layout {manifest.layout}, this program reads {LAYOUT}; update it")
        if (manifest.kind, manifest.version) != (kind, version):
            raise ArtifactError(
                f"{path} says it is {manifest.kind} {manifest.version}, expected {kind} {version}: "
                "it was moved or renamed; put it back or delete it"
            )
        return manifest

    def _pointer(self, kind: str) -> Pointer | None:
        path = self._folder(kind) / POINTER_FILE
        try:
            return msgspec.json.decode(path.read_bytes(), type=Pointer)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise ArtifactError(f"{path} cannot be read ({error}); delete it and deploy a version again") from error

    def _point(self, kind: str, pointer: Pointer) -> None:
        place_file(self._folder(kind) / POINTER_FILE, _json(pointer))


_RETRAIN = "delete this version and train or build it again, or roll back to an earlier one"


def _packed(arrays: Arrays) -> bytes:
    # safetensors writes the buffer as it lies in memory, so a transposed view has to be laid out first.
    plain = {key: np.asarray(value, order="C") for key, value in arrays.items()}
    try:
        blob: bytes = save_arrays(plain)
    except (SafetensorError, ValueError, KeyError, AttributeError) as error:
        kinds = {key: str(value.dtype) for key, value in plain.items()}
        raise ArtifactError(f"safetensors cannot hold these arrays: {kinds} ({error})") from error
    return blob


def _json(value: Any, *, sort: bool = False) -> bytes:
    plain = msgspec.to_builtins(value) if isinstance(value, msgspec.Struct) else value
    try:
        return orjson.dumps(plain, option=orjson.OPT_SORT_KEYS if sort else orjson.OPT_INDENT_2)
    except TypeError as error:
        raise ArtifactError(f"meta and evidence of an artifact must be JSON: {error}") from error


def _remove(folder: Path) -> None:
    # Renamed first: a half-deleted folder must not stand under the version's name.
    doomed = folder.with_name(f"{LEFTOVER}{uuid.uuid4().hex}")
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def _sweep(folder: Path) -> None:
    """Remove what crashed writers left, once it is too old to be a writer at work."""
    for entry in os.scandir(folder):
        if entry.name.startswith(LEFTOVER) and entry.stat().st_mtime < time.time() - LEFTOVER_AGE_S:
            if entry.is_dir():
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
