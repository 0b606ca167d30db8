"""The models of the live proof, loaded and served, and runs on them. Imports torch."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import torch
from rich.console import Console

from demo.bohdi.findings import RoundSeen, Run
from demo.bohdi.loop import run
from demo.bohdi.policies import Plan, Policy
from demo.bohdi.pupil import Pupil
from demo.bohdi.roster import PUPIL, SCHOOLING, SOURCES
from demo.bohdi.serving import serving
from demo.fleet.engine import load
from encoders.catalogue import load_encoder


class Stage:
    """A context in which the sources and the pupil are served. Raises FileNotFoundError if a model is not there."""

    def __init__(self, console: Console) -> None:
        torch.set_num_threads(1)
        self._console = console
        self._beginner = load(SCHOOLING.folder, PUPIL)
        self._models = [load(source.folder, source.name) for source in SOURCES.values()]
        self._encoder = load_encoder("static")
        self._open = ExitStack()
        self._before: dict[int, dict[str, float]] = {}

    def __enter__(self) -> Stage:
        self._service = self._open.enter_context(serving([*self._models, self._beginner], SOURCES))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def run(self, policy: Policy, plan: Plan, seed: int) -> Run:
        """One run of one policy, from a beginner. Says after each round how it stands."""
        started = time.monotonic()

        def seen(now: RoundSeen) -> None:
            lowest = min(now.accuracy, key=lambda family: now.accuracy[family])
            average = sum(now.accuracy.values()) / len(now.accuracy)
            self._console.print(
                f"{policy}, seed {seed}, round {now.number} of {plan.rounds}: "
                f"{sum(now.found.asked.values())} questions, mean {100 * average:.0f} %, "
                f"worst {lowest} {100 * now.accuracy[lowest]:.0f} %, {time.monotonic() - started:.0f} s",
                highlight=False,
            )

        if plan.held_out not in self._before:
            self._before[plan.held_out] = Pupil(self._beginner, 0).examine(plan.held_out)
        before = self._before[plan.held_out]
        with tempfile.TemporaryDirectory() as folder:
            return asyncio.run(
                run(policy, plan, seed, self._service, self._beginner, self._encoder, Path(folder), before, seen)
            )
