"""Figures of the routing bar that other benchmarks measure: onboarding a model, and off-policy evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import orjson

from benchmarks.result_file import RESULTS

SISTERS: Final = {"onboarding": ("onboarding_share_64",), "off_policy": ("ope_coverage", "ope_spearman")}
"""Benchmarks (`python -m benchmarks.<name>`) whose result files have these figures in their bars."""


def sister_figures(results: Path = RESULTS) -> tuple[dict[str, float], dict[str, str]]:
    """The figures as their own result files have them, and from which commit each is.

    They are not measured again: each takes longer than this whole laboratory may. A benchmark that has not been run, or
    has no such figure, is left out of both.
    """
    figures: dict[str, float] = {}
    sources: dict[str, str] = {}
    for name, keys in SISTERS.items():
        path = results / f"{name}.json"
        if not path.is_file():
            continue
        content = orjson.loads(path.read_bytes())
        known = {key: content["bar"][key] for key in keys if key in content["bar"]}
        if known:
            figures |= known
            sources[name] = f"read from {path.name}: {content['command']} at commit {content['commit']}"
    return figures, sources
