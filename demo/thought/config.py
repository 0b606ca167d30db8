"""The gateway's config for the proof: the sage to be asked by name, the follower on a route in both ways."""

from __future__ import annotations

import json
from typing import Any

from demo.fleet.roster import CODE_BOOK, CONTEXT_WINDOW
from demo.thought.experiment import AUTO, EXPLORE, FOLLOWER, SAGE

USD_PER_MILLION_PARAMETERS = 0.15
"""Per million tokens of the prompt; four times as much for those of the answer. Invented, as for the whole fleet."""


def thought_config(base_url: str) -> dict[str, Any]:
    """A config (for `registry.config.Config`) over the server at `base_url` (ending in `/v1`).

    One template at most is shown, because the follower was trained to carry out one; all else is left at its default.
    """
    ways = {SAGE: ["direct"], FOLLOWER: ["direct", "thought"]}
    both = {"models": [FOLLOWER, f"{FOLLOWER}#thought"]}
    return {
        "version": 1,
        "upstreams": {"fleet": {"base_url": base_url.rstrip("/")}},
        "models": {
            name: {
                "endpoints": [{"upstream": "fleet"}],
                "ways": ways[name],
                "prices": _prices(name),
                "context_window": CONTEXT_WINDOW,
                "capabilities": ["chat"],
            }
            for name in (SAGE, FOLLOWER)
        },
        "routes": {AUTO: both, EXPLORE: {**both, "exploration": 1.0}},
        "templates": {"top_k": 1, "worth_every_s": None},
    }


def _prices(name: str) -> dict[str, float]:
    made = json.loads((CODE_BOOK[name].folder / "training.json").read_text())
    price = round(USD_PER_MILLION_PARAMETERS * made["parameters"] / 1e6, 3)
    return {"prompt_per_1m": price, "completion_per_1m": round(4 * price, 3)}
