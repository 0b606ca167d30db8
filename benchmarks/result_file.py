"""The one file format of every benchmark: what was run, where, at which commit, the whole table, and the bar.

`bar` is a flat object of the figures the project is judged by. A figure that was not measured is left out by the
caller: None and NaN are refused, and so is a file with no rows.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson

RESULTS = Path(__file__).resolve().parent / "results"
"""Where the files go; they are committed."""
NAMED_PACKAGES = (
    "numpy",
    "faiss-cpu",
    "onnxruntime",
    "tokenizers",
    "torch",
    "transformers",
    "sentence-transformers",
    "scikit-learn",
    "fastapi",
    "uvicorn",
    "uvloop",
    "httptools",
    "aiohttp",
    "pyreqwest",
    "orjson",
    "msgspec",
    "redis",
)
"""Packages whose versions change a figure; those installed are recorded."""

Figure = float | int | bool


def write_result(
    name: str,
    command: str,
    rows: Sequence[Mapping[str, Any]],
    bar: Mapping[str, Figure],
    results: Path = RESULTS,
    notes: Mapping[str, str] | None = None,
) -> Path:
    """Write `<results>/<name>.json` and return its path; replaces the file of an earlier run in one step.

    Parameters
    ----------
    name: the benchmark's name, a plain file name such as `encoders`.
    command: what a reader types to run it again.
    rows: the whole table, one mapping per line of it.
    bar: flat figures under the keys of the contract; finite numbers or booleans only.
    notes: what a reader must know to read the figures, such as their units.

    Raises
    ------
    ValueError: a name with a path in it, an empty table, or a figure that is not a finite number.
    """
    if not name or Path(name).name != name:
        raise ValueError(f"a result is named by a plain file name such as 'encoders'; got {name!r}")
    if not rows:
        raise ValueError(f"benchmark {name!r} has no rows to write: a run without a table is not a result")
    for key, value in bar.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"bar figure {key!r} is {value!r}; leave out what was not measured")
    record = {
        "command": command,
        "machine": machine(),
        **commit(),
        "rows": [dict(row) for row in rows],
        "bar": dict(bar),
    }
    if notes:
        record["notes"] = dict(notes)
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{name}.json"
    partial = path.with_suffix(f".json.{os.getpid()}")
    partial.write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n")
    partial.replace(path)
    return path


def machine() -> dict[str, Any]:
    """Cores, memory in GiB, processor, operating system and versions; no host name."""
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **_versions()},
    }


def commit() -> dict[str, Any]:
    """The commit the working tree stands on, and whether tracked files differ from it; `unknown` outside git."""
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown"}
    return {"commit": head, "uncommitted_changes": bool(changed)}


def _git(*arguments: str) -> str:
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    found = {}
    for package in NAMED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")
