"""The files of an index beside the store: written whole or not at all, checked when read, mapped and not copied.

The folder holds one generation (vectors, ids, and the large parts' indexes) and `current.json`, which names it, says of
which store and version it was made, and has the length and checksum of every file. A new generation is written beside
the old one and takes its place by one rename. Nothing here is precious: what cannot be used is made anew.
"""

from __future__ import annotations

import os
import shutil
import uuid
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import faiss
import msgspec
import numpy as np

from registry.atomic_files import LEFTOVER, locked, place_file, sync_folder
from templates_store.approximate import Approximate, Recall, open_lists
from templates_store.block import Block, Part
from templates_store.database import TemplateStoreError

INDEX_FOLDER = "templates.index"
"""Name of the folder beside the store."""

LAYOUT = 2
_CURRENT = "current.json"
_CHUNK = 8 * 1024 * 1024


class IndexMissing(TemplateStoreError):
    """There are no files of an index."""


class IndexUnusable(TemplateStoreError):
    """There are files, but not of this index, or not as they were written; or they cannot be written."""


class _File(msgspec.Struct):
    bytes: int
    crc32: int


class _Lists(msgspec.Struct):
    """A large part's index, and what it was calibrated to when it was made."""

    file: str
    probes: int
    recall: Recall
    trained_on: int


class _Part(msgspec.Struct):
    tenant: str | None
    start: int
    stop: int
    lists: _Lists | None = None


class _Manifest(msgspec.Struct):
    layout: int
    generation: str
    encoder: str
    mark: str
    version: int
    dim: int
    rows: int
    left_out: int
    parts: list[_Part]
    files: dict[str, _File]


class Kept(msgspec.Struct, frozen=True):
    """What was read: the rows, the version of the store they were made of, its mark, and the templates left out."""

    block: Block
    version: int
    mark: str
    left_out: int


def write_index(folder: Path, block: Block, encoder: str, version: int, mark: str, left_out: int) -> None:
    """Put these rows in the place of what is in the folder. Raises IndexUnusable, and then the old ones stay."""
    partial = folder / f"{LEFTOVER}{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            partial.mkdir()
            files = {
                "ids.u64": _write(partial / "ids.u64", [block.ids.astype("<u8").data.cast("B")]),
                "vectors.f32": _write(partial / "vectors.f32", _chunks(block)),
            }
            parts = [_write_part(partial, tenant, part, files) for tenant, part in block.parts.items()]
            sync_folder(partial)
            generation = f"g-{uuid.uuid4().hex}"
            manifest = _Manifest(
                LAYOUT, generation, encoder, mark, version, block.dim, len(block), left_out, parts, files
            )
            os.rename(partial, folder / generation)
            data = msgspec.json.encode(manifest)
            place_file(folder / _CURRENT, b"%08x\n%s" % (zlib.crc32(data), data))
            _remove_others(folder, generation)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise IndexUnusable(
            f"the index of the templates cannot be written to {folder}: {error}; "
            "check that the disk has room and that the folder may be written"
        ) from error


def read_index(folder: Path, encoder: str) -> Kept:
    """The rows in the folder, mapped.

    Raises
    ------
    IndexMissing: there are none.
    IndexUnusable: they are damaged, of another encoder, or of another layout.
    """
    try:
        manifest = _manifest(folder)
        if manifest.encoder != encoder:
            raise IndexUnusable(f"the index in {folder} is of encoder {manifest.encoder}, not of {encoder}")
        return _read(folder / manifest.generation, manifest)
    except FileNotFoundError as error:
        if not (folder / _CURRENT).exists():
            raise IndexMissing(f"there is no index in {folder}") from error
        raise IndexUnusable(f"the index in {folder} lacks a file: {error}") from error
    except (OSError, ValueError, RuntimeError, msgspec.MsgspecError) as error:
        if isinstance(error, IndexUnusable):
            raise
        raise IndexUnusable(f"the index in {folder} cannot be read: {error}") from error


def _manifest(folder: Path) -> _Manifest:
    checksum, _, data = (folder / _CURRENT).read_bytes().partition(b"\n")
    if checksum != b"%08x" % zlib.crc32(data):
        raise IndexUnusable(f"the index in {folder} is damaged: {_CURRENT} does not have its checksum")
    layout = msgspec.json.decode(data).get("layout")
    if layout != LAYOUT:
        raise IndexUnusable(f"the index in {folder} has layout {layout}, this version writes layout {LAYOUT}")
    return msgspec.json.decode(data, type=_Manifest)


def _read(place: Path, manifest: _Manifest) -> Kept:
    for name, wanted in manifest.files.items():
        _check(place / name, wanted)
    rows, dim = manifest.rows, manifest.dim
    ids: Any = np.empty(0, np.uint64)
    vectors: Any = np.empty((0, dim), np.float32)
    if rows:
        ids = np.memmap(place / "ids.u64", dtype="<u8", mode="r", shape=(rows,))
        vectors = np.memmap(place / "vectors.f32", dtype="<f4", mode="r", shape=(rows, dim))
    parts: dict[str | None, Part] = {}
    for part in manifest.parts:
        lists = part.lists
        if lists is None:
            parts[part.tenant] = Part(part.start, part.stop)
        else:
            approximate = Approximate(open_lists(str(place / lists.file)), lists.probes, lists.recall)
            parts[part.tenant] = Part(part.start, part.stop, approximate, lists.trained_on)
    block = Block(ids.view(np.ndarray), vectors.view(np.ndarray), parts)
    return Kept(block, manifest.version, manifest.mark, manifest.left_out)


def _check(path: Path, wanted: _File) -> None:
    size, found = path.stat().st_size, 0
    if size != wanted.bytes:
        raise IndexUnusable(f"the index is damaged: {path.name} has {size} bytes of {wanted.bytes}")
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found = zlib.crc32(chunk, found)
    if found != wanted.crc32:
        raise IndexUnusable(f"the index is damaged: {path.name} does not have its checksum")


def _chunks(block: Block) -> Iterable[memoryview]:
    step = max(1, _CHUNK // max(1, 4 * block.dim))
    for start in range(0, len(block), step):
        yield np.ascontiguousarray(block.vectors[start : start + step], dtype="<f4").data.cast("B")


def _write(path: Path, chunks: Iterable[memoryview]) -> _File:
    size, checksum = 0, 0
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            size, checksum = size + len(chunk), zlib.crc32(chunk, checksum)
        file.flush()
        os.fsync(file.fileno())
    return _File(size, checksum)


def _write_part(place: Path, tenant: str | None, part: Part, files: dict[str, _File]) -> _Part:
    if part.approximate is None:
        return _Part(tenant, part.start, part.stop)
    name = f"part-{part.start}.faiss"
    faiss.write_index(part.approximate.lists, str(place / name))
    checksum = 0
    with (place / name).open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
        os.fsync(file.fileno())
        files[name] = _File(file.tell(), checksum)
    lists = _Lists(name, part.approximate.probes, part.approximate.recall, part.trained_on)
    return _Part(tenant, part.start, part.stop, lists)


def _remove_others(folder: Path, generation: str) -> None:
    """Remove older generations and what a crash has left. Processes that have them mapped keep them until they end."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != generation:
            shutil.rmtree(path, ignore_errors=True)
