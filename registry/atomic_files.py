"""Files that are there whole or not at all, and a lock that dies with its holder."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

LEFTOVER = ".partial-"
"""Prefix of what is being written.

A name of ours never starts with a dot, so a leftover is never taken for a version.
"""


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def place_file(path: Path, data: bytes) -> None:
    """Replace a file: after a crash its old or its new content is there, never a part."""
    partial = path.with_name(f"{LEFTOVER}{uuid.uuid4().hex}")
    write_synced(partial, data)
    os.replace(partial, path)
    sync_folder(path.parent)


def place_folder(target: Path, files: dict[str, bytes]) -> None:
    """Make a folder with these files appear at once."""
    partial = target.with_name(f"{LEFTOVER}{uuid.uuid4().hex}")
    partial.mkdir()
    for name, data in files.items():
        write_synced(partial / name, data)
    sync_folder(partial)
    os.rename(partial, target)
    sync_folder(target.parent)


def append_synced(path: Path, line: bytes) -> None:
    """Append one line and wait until it is on the disk. A line that a crash has cut is ended first."""
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Hold the folder for one writer. The lock dies with its process, so a crash never leaves it held."""
    if sys.platform == "win32":
        yield
        return
    with (folder / name).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
