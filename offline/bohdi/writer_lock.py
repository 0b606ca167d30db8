"""The lock of the one process that may write an episode log. It dies with its process and says who holds it."""

from __future__ import annotations

import fcntl
import os
import socket
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path

from offline.bohdi.errors import LogHeld


class WriterLock:
    """An exclusive lock on a file whose text names the holder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIOWrapper | None = None

    def take(self) -> None:
        """Hold the lock. Raises LogHeld at once if somebody else holds it."""
        if self._file is not None:
            return
        file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "a process that has not said its name yet"
            file.close()
            raise LogHeld(
                f"{self._path.name.removesuffix('.lock')} is being written by {holder}: "
                "wait until it is done or stop it; reading needs no lock"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
        file.flush()
        self._file = file

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None
