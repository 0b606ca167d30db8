"""Figures of the routing bar that other benchmarks measure: onboarding a model, and off-policy evaluation."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final

import orjson

from benchmarks.result_file import RESULTS

SISTERS: Final = {"onboarding": ("onboarding_share_64",), "off_policy": ("ope_coverage", "ope_spearman")}
"""Modules of `benchmarks`, whose `measure()` returns these keys and whose result file has them in its bar."""


def sister_figures(take_over: bool, results: Path = RESULTS) -> tuple[dict[str, float], dict[str, str]]:
    """The figures, and for each benchmark whether it was run now or its file of which commit was read.

    A benchmark that is not there, or has no such figure, is left out of both.
    """
    figures: dict[str, float] = {}
    sources: dict[str, str] = {}
    for name, keys in SISTERS.items():
        found, source = _read(results / f"{name}.json") if take_over else _run(name)
        known = {key: found[key] for key in keys if key in found}
        if known:
            figures |= known
            sources[name] = source
    return figures, sources


def _read(path: Path) -> tuple[dict[str, float], str]:
    if not path.is_file():
        return {}, ""
    content = orjson.loads(path.read_bytes())
    return content["bar"], f"read from {path.name}, which was measured at commit {content['commit']}"


def _run(name: str) -> tuple[dict[str, float], str]:
    try:
        measure: Callable[[], dict[str, float]] = import_module(f"benchmarks.{name}").measure
    except ModuleNotFoundError:
        return {}, ""
    return measure(), "measured in this run"
