"""The pools: files of scored answers of many models, cut to the part in which the value of every choice is known."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import orjson

from benchmarks.routing_probe import shared_folder
from encoders.features import FEATURE_SET
from encoders.protocol import Encoder
from offline.outcome_file import CHARS_PER_TOKEN, outcomes_from_file, plain_name, read_prices
from routers.prior import COMPLETION_TOKENS
from routers.protocol import Outcomes
from routers.rows import positions, subset

NEARLY_EVERY = 0.95
"""Arms are kept that answered this share of the queries of the arm with most answers."""
LEAST_QUERIES = 100
SMALL_BILLIONS = 13.0
"""A small model has at most so many parameters, by its name."""
_SIZE = re.compile(r"(?<![a-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)
READER = "1"
"""Changes when this file reads a pool differently, so that what was read before is read anew."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Outcomes without a gap in quality. `priced`: every cost is known. `notes` say what was left out or guessed."""

    name: str
    outcomes: Outcomes
    priced: bool
    notes: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """A digest of all that a router can learn from."""
        made = hashlib.sha256(orjson.dumps([self.outcomes.arms, self.outcomes.query_ids, self.outcomes.tasks]))
        for matrix in (self.outcomes.vectors, self.outcomes.quality, self.outcomes.cost_usd, self.outcomes.features):
            made.update(b"" if matrix is None else np.ascontiguousarray(matrix).tobytes())
        return made.hexdigest()[:16]


class PoolError(ValueError):
    """A file cannot serve as a pool. Says why."""


def whole(outcomes: Outcomes) -> tuple[Outcomes, tuple[str, ...]]:
    """The part in which every arm answered every query, and what was left out to get it.

    Arms that answered nearly as many queries as the one with most answers are kept. If these have too few queries in
    common, those with most answers are, as many as hold the most answers together.

    Raises
    ------
    PoolError: fewer than 2 arms, or 100 queries, are left.
    """
    known = ~np.isnan(outcomes.quality)
    answered = known.sum(axis=0)
    arms = np.flatnonzero(answered >= NEARLY_EVERY * answered.max())
    if len(arms) < 2 or known[:, arms].all(axis=1).sum() < max(LEAST_QUERIES, answered.max() / 2):
        order = np.argsort(-answered, kind="stable")
        common = np.cumsum(~known[:, order], axis=1) == 0
        size = common.sum(axis=0) * np.where(np.arange(len(order)) > 0, np.arange(1, len(order) + 1), 0)
        arms = np.sort(order[: int(np.argmax(size)) + 1])
    rows = np.flatnonzero(known[:, arms].all(axis=1))
    if len(arms) < 2 or len(rows) < LEAST_QUERIES:
        raise PoolError(
            f"{len(rows)} queries were answered by all of {len(arms)} arms; a pool needs {LEAST_QUERIES} queries "
            "that the same 2 arms answered"
        )
    notes = []
    if len(arms) < len(answered):
        notes.append(f"{len(answered) - len(arms)} of {len(answered)} arms left out: they answered too few queries")
    if len(rows) < len(known):
        notes.append(f"{len(known) - len(rows)} of {len(known)} queries left out: not every arm answered them")
    return with_arms(subset(outcomes, rows), arms), tuple(notes)


def with_arms(outcomes: Outcomes, arms: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Outcomes:
    """The outcomes of some of the arms, in the order of `arms`."""
    return replace(
        outcomes,
        arms=tuple(outcomes.arms[arm] for arm in arms.tolist()),
        quality=outcomes.quality[:, arms],
        cost_usd=outcomes.cost_usd[:, arms],
        latency_s=outcomes.latency_s[:, arms],
        propensity=outcomes.propensity[:, arms],
    )


def billions(model: str) -> float | None:
    """The number of parameters that a model's name states, in billions; of `8x7B` their product. None if none is."""
    found = _SIZE.search(model.replace("_", "."))
    return None if found is None else float(found[1] or 1) * float(found[2])


def small(pool: Pool) -> Pool | None:
    """The models of at most 13 billion parameters; None if the names show fewer than two."""
    sizes = [billions(arm) for arm in pool.outcomes.arms]
    arms = np.array([i for i, size in enumerate(sizes) if size is not None and size <= SMALL_BILLIONS], dtype=np.intp)
    if len(arms) < 2:
        return None
    outcomes = with_arms(pool.outcomes, arms)
    note = f"the {len(arms)} models whose names state at most {SMALL_BILLIONS:g} billion parameters"
    return Pool(f"{pool.name}_small", outcomes, is_priced(outcomes), (*pool.notes, note))


def without_dearest(pool: Pool) -> Pool | None:
    """Without the arm of the highest mean cost; None if costs are not known or two arms would not be left."""
    if not pool.priced or len(pool.outcomes.arms) < 3:
        return None
    dearest = int(np.argmax(pool.outcomes.cost_usd.mean(axis=0)))
    arms = np.delete(np.arange(len(pool.outcomes.arms)), dearest)
    note = f"without {pool.outcomes.arms[dearest]}, the dearest arm"
    return Pool(f"{pool.name}_without_dearest", with_arms(pool.outcomes, arms), True, (*pool.notes, note))


def is_priced(outcomes: Outcomes) -> bool:
    """Whether every cost is known."""
    return bool(np.all(np.isfinite(outcomes.cost_usd)))


VARIANTS: dict[str, tuple[Callable[[Pool], Pool | None], ...]] = {
    "llmrouter14": (),
    "mmlu_pro": (small,),
    "zeroeval": (),
    "routerbench_sub": (without_dearest,),
    "routellm_pair": (),
}
"""The files of the shared folder, and the pools made of each beside itself."""


def read_pool(path: Path, encoder: Encoder, kept: Path) -> Pool:
    """Read and encode a file, or take what an earlier run has kept of it in the folder `kept`.

    Costs that were not logged are estimated from `prices.json` beside the file: tokens by the length of query and
    answer, an answer of unknown length as a typical one.
    """
    prices_file = path.with_name("prices.json")
    stated = path.stat()
    parts = (READER, path.name, str(stated.st_size), str(stated.st_mtime_ns), encoder.hash, FEATURE_SET)
    folder = kept / f"{path.stem}-{hashlib.sha256('/'.join(parts).encode()).hexdigest()[:12]}"
    if (folder / "names.json").is_file():
        return _taken(folder)
    prices = read_prices(prices_file) if prices_file.is_file() else {}
    outcomes, notes = whole(outcomes_from_file(path, encoder, prices))
    unknown = np.isnan(outcomes.cost_usd)
    for column, arm in enumerate(outcomes.arms):
        price = prices.get(plain_name(arm))
        if price is None or not unknown[:, column].any():
            continue
        tokens = [round(len(text or "") / CHARS_PER_TOKEN) for text in outcomes.texts or ()]
        costs = np.array([price.cost(count, COMPLETION_TOKENS) for count in tokens], dtype=np.float32)
        outcomes.cost_usd[:, column] = np.where(unknown[:, column], costs, outcomes.cost_usd[:, column])
    guessed = float((unknown & ~np.isnan(outcomes.cost_usd)).mean())
    if guessed:
        notes += (f"{guessed:.0%} of costs assume an answer of {COMPLETION_TOKENS} tokens",)
    pool = Pool(path.stem, outcomes, is_priced(outcomes), notes)
    _keep(pool, folder)
    return pool


def pools_of(path: Path, encoder: Encoder, kept: Path) -> Iterator[Pool]:
    """The pool of a file, and the pools made of it."""
    pool = read_pool(path, encoder, kept)
    yield pool
    for variant in VARIANTS.get(path.stem, ()):
        made = variant(pool)
        if made is not None:
            yield made


def sampled(pool: Pool, queries: int) -> Pool:
    """At most so many of its queries, drawn by content."""
    order = np.argsort(positions(pool.outcomes.query_ids, "sampled"), kind="stable")[:queries]
    if len(order) == len(pool.outcomes.query_ids):
        return pool
    note = f"{len(order)} of {len(pool.outcomes.query_ids)} queries drawn"
    return replace(pool, outcomes=subset(pool.outcomes, np.sort(order)), notes=(*pool.notes, note))


def _keep(pool: Pool, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    o = pool.outcomes
    matrices = {name: getattr(o, name) for name in ("vectors", "quality", "cost_usd", "latency_s", "propensity")}
    if o.features is not None:
        matrices["features"] = o.features
    np.savez(folder / "matrices.npz", **matrices)
    names = {"name": pool.name, "priced": pool.priced, "notes": pool.notes, "arms": o.arms, "encoder": o.encoder}
    texts = {"query_ids": o.query_ids, "tasks": o.tasks, "texts": o.texts, "feature_set": o.feature_set}
    part = folder / f"names.{os.getpid()}"
    part.write_bytes(orjson.dumps(names | texts))
    part.replace(folder / "names.json")


def _taken(folder: Path) -> Pool:
    names = orjson.loads((folder / "names.json").read_bytes())
    with np.load(folder / "matrices.npz", allow_pickle=False) as matrices:
        outcomes = Outcomes(
            vectors=matrices["vectors"],
            arms=tuple(names["arms"]),
            quality=matrices["quality"],
            cost_usd=matrices["cost_usd"],
            latency_s=matrices["latency_s"],
            propensity=matrices["propensity"],
            encoder=names["encoder"],
            query_ids=tuple(names["query_ids"]),
            tasks=None if names["tasks"] is None else tuple(names["tasks"]),
            features=matrices["features"] if "features" in matrices.files else None,
            feature_set=names["feature_set"],
            texts=None if names["texts"] is None else tuple(names["texts"]),
        )
    return Pool(names["name"], outcomes, names["priced"], tuple(names["notes"]))


def shared_files() -> list[Path]:
    """The files of the shared folder that are there."""
    return [path for name in VARIANTS if (path := shared_folder() / f"{name}.parquet").is_file()]
