"""The policies that the live proof compares, as settings of a knowledge tree, and how long a run is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from demo.bohdi.domains import DOMAINS
from demo.bohdi.roster import PUPIL, SOURCES
from offline.bohdi.settings import Settings

Policy = Literal["ours", "uniform", "published"]
POLICIES: Final[tuple[Policy, ...]] = ("ours", "uniform", "published")


@dataclass(frozen=True, slots=True)
class Plan:
    """The length of a run, the same for every policy: what is asked and what is trained on.

    `paths` questions in each of `rounds`. After each the pupil trains `steps` steps of `batch` on a draw of `draw`
    examples, of which `replay` are from earlier rounds. `window`: of the drift test. `held_out`: questions of each
    family that the pupil is examined on at the end; `glance`: after the rounds before.
    """

    rounds: int = 5
    paths: int = 128
    draw: int = 400
    replay: float = 0.75
    steps: int = 40
    batch: int = 32
    learning_rate: float = 6e-4
    window: int = 15
    held_out: int = 70
    glance: int = 15


def settings_of(policy: Policy, plan: Plan, seed: int) -> Settings:
    """The settings of a policy. All ask the same sources in the same words; only the rules differ.

    Ours forgets half of what it saw of the pupil each time that the pupil is trained, and tests for drift. The
    published rules are the published ones. Uniform grows its tree as ours does and then asks, and draws, evenly.
    """
    common = Settings(
        target=PUPIL, sources=tuple(SOURCES), levels=2, prompts="tiny", paths_per_round=plan.paths, rounds=plan.rounds,
        replay_share=plan.replay, seed=seed, concurrency=32, leaf_questions=4.0, widening=2.0,
        most_children=len(DOMAINS),
    )  # fmt: skip
    if policy == "uniform":
        return msgspec.structs.replace(common, rule="uniform", drift="none")
    if policy == "published":
        return msgspec.structs.replace(common, rule="published", drift="published", window=20)
    return msgspec.structs.replace(common, window=plan.window, discount=1.0, carry=0.5, draw_power=2.0)
