"""Trials kept on disk, so that a run takes up where an earlier one ended and repeats only what has changed."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import orjson

from benchmarks.routing_lab.contenders import Contender
from benchmarks.routing_lab.trial import Trial


@dataclass(frozen=True, slots=True)
class Cell:
    """One trial to be had: a contender on one split of one pool.

    `code` is the digest of its source when the run began: an edit in the midst of a run must not lose what was made.
    """

    pool: str
    fingerprint: str
    kind: str
    seed: int
    contender: Contender
    code: str

    @property
    def key(self) -> str:
        """Changes with the pool's content, the contender's code and settings, and everything else it depends on."""
        parts = (self.fingerprint, self.kind, self.seed, asdict(self.contender), self.code)
        return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:20]

    def path(self, folder: Path) -> Path:
        name = self.contender.name.replace(" ", "_")
        return folder / self.pool / f"{self.kind}-{self.seed}-{name}-{self.key}.npz"


def keep(trial: Trial, path: Path) -> None:
    """Write in one step, so that a run that is cut off leaves no half of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = {"scenarios": trial.scenarios, "query_ids": trial.query_ids, "figures": trial.figures}
    text = np.frombuffer(orjson.dumps(names), dtype=np.uint8)
    arrays = {name: getattr(trial, name) for name in ("scores", "costs", "rewards", "curve")}
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez_compressed(file, names=text, **arrays)
    part.replace(path)


def taken(path: Path) -> Trial | None:
    """The trial that an earlier run kept there, or None."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        names = orjson.loads(file["names"].tobytes())
        arrays = {name: file[name] for name in ("scores", "costs", "rewards", "curve")}
    return Trial(tuple(names["scenarios"]), tuple(names["query_ids"]), **arrays, figures=names["figures"])
