"""`tokamak demo templates`: everything from an empty store to a router that knows when a template is worth it.

The sage answers over HTTP and its answers are scored; `tokamak templates build` makes templates of the right ones. The
follower explores, with templates and without; `tokamak train` learns from the log. Then four ways of asking it are
compared on the same held-out questions: without templates, with random ones (a second gateway, in whose store every
question has another one's text), with those that are retrieved, and as the router decides.
"""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from demo.client import GatewayClient, TrafficError, gateway_client
from demo.experiment import SWAP_LIMIT_S, Progress
from demo.fleet.tasks import Question
from demo.stack import Stack, StackError, all_feedback_logged, finished, fleet_upstream, gateway, train
from demo.thought.config import thought_config
from demo.thought.experiment import AUTO, EXPLORE, FOLLOWER, SAGE, THOUGHT, Measured, Plan, Traffic, Way
from encoders.catalogue import load_encoder
from templates_store.create import create_template
from templates_store.opening import open_store
from templates_store.template import Template

BUILD_LIMIT_S = 300.0
VISIBLE_LIMIT_S = 30.0
SEED = 7
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Findings:
    """What was asked, what came of it, and what the log says that the templates are worth.

    `built` is what `tokamak templates build --json` printed, and `worth` what `tokamak templates worth --json` did.
    """

    questions: tuple[Question, ...]
    rows: tuple[Measured, ...]
    sage_asked: int
    sage_right: int
    explored: int
    templates: tuple[Template, ...]
    built: dict[str, Any]
    router: str
    worth: dict[str, Any]
    seconds: dict[str, float]

    def row(self, way: Way) -> Measured:
        """The row of that way. Raises LookupError."""
        for row in self.rows:
            if row.way == way:
                return row
        raise LookupError(f"nothing was measured as {way!r}")


@dataclass(slots=True)
class Proof:
    """One run of the proof. `folder` gets the configs, the data and the logs of all processes."""

    plan: Plan
    folder: Path
    router: str
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self) -> Findings:
        """All of it, from starting the processes to stopping them. Raises StackError or TrafficError."""
        folders = self.folder / "gateway", self.folder / "shuffled"
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        with (
            fleet_upstream((SAGE, FOLLOWER), self.folder) as upstream,
            gateway(thought_config(upstream), folders[0]) as stack,
            gateway(thought_config(upstream), folders[1]) as shuffled,
        ):
            return asyncio.run(self._phases(stack, shuffled))

    async def _phases(self, stack: Stack, shuffled: Stack) -> Findings:
        plan, questions = self.plan, self.plan.test()
        async with (
            gateway_client(stack.base_url, stack.metrics_url) as client,
            gateway_client(shuffled.base_url) as other,
        ):
            traffic = Traffic(client, self.progress)
            asked, right = await self._timed("sage", traffic.scored("ask the sage", plan.sage(), SAGE))
            built, templates = await self._timed("build", self._build(stack, shuffled, asked))
            explored, _ = await self._timed("explore", traffic.scored("explore", plan.explore(), EXPLORE))
            router = await self._timed("train", self._train(stack, client, asked + explored))
            rows = [
                await self._timed("test", Traffic(at, self.progress).measured(way, questions, model))
                for way, at, model in self._ways(client, other)
            ]
            worth = await asyncio.to_thread(finished, stack, "worth", ["templates", "worth", "--json"])
        return Findings(
            tuple(questions), tuple(rows), asked, right, explored, templates, built, router,
            msgspec.json.decode(worth, type=dict[str, Any]), self.seconds,
        )  # fmt: skip

    @staticmethod
    def _ways(client: GatewayClient, other: GatewayClient) -> list[tuple[Way, GatewayClient, str]]:
        return [
            ("without", client, FOLLOWER), ("random", other, THOUGHT), ("retrieved", client, THOUGHT),
            ("routed", client, AUTO),
        ]  # fmt: skip

    async def _build(self, stack: Stack, shuffled: Stack, expected: int) -> tuple[dict[str, Any], tuple[Template, ...]]:
        """Templates from the log into the store of the first gateway, and mixed up into that of the second."""
        self.progress.start("tokamak templates build", 1)
        await all_feedback_logged(stack, expected)
        arguments = ["templates", "build", "--json", "--config", str(stack.folder / "gateway.yaml")]
        printed = await asyncio.to_thread(finished, stack, "build", arguments, BUILD_LIMIT_S)
        with open_store(stack.data_dir) as store:
            templates = tuple(template for template in store.templates() if template.state == "active")
        with open_store(shuffled.data_dir) as store:
            store.add_all(mixed_up(templates))
        for gateway_ in (stack, shuffled):
            await visible(gateway_, len(templates))
        self.progress.step()
        return msgspec.json.decode(printed, type=dict[str, Any]), templates

    async def _train(self, stack: Stack, client: GatewayClient, expected: int) -> str:
        """The version of the router that decides from now on."""
        self.progress.start(f"tokamak train --router {self.router} --deploy", 1)
        untrained = await client.router()
        await all_feedback_logged(stack, expected)
        await asyncio.to_thread(train, stack, self.router)
        until = time.monotonic() + SWAP_LIMIT_S
        while (version := await client.router()) == untrained:
            if time.monotonic() > until:
                raise TrafficError(f"the gateway still decides with {untrained!r} {SWAP_LIMIT_S:.0f} s after training")
            await asyncio.sleep(0.2)
        self.progress.step()
        return version

    async def _timed(self, phase: str, work: Awaitable[_Result]) -> _Result:
        started = time.perf_counter()
        result = await work
        self.seconds[phase] = round(self.seconds.get(phase, 0.0) + time.perf_counter() - started, 1)
        return result


def mixed_up(templates: Sequence[Template]) -> list[Template]:
    """The same questions and the same texts, where no question has its own text; at least two templates."""
    order = np.random.default_rng(SEED).permutation(len(templates))
    encoder = load_encoder("static")
    return [
        create_template(encoder, templates[place].query, templates[other].text, builder="mixed-up")
        for place, other in zip(order, np.roll(order, 1), strict=True)
    ]


async def visible(stack: Stack, count: int) -> None:
    """Return when the gateway's index holds `count` templates. Raises StackError if it does not in time."""
    until = time.monotonic() + VISIBLE_LIMIT_S
    while (found := await asyncio.to_thread(_index_size, stack)) != count:
        if time.monotonic() > until:
            raise StackError(f"expected {count} templates in the index of {stack.folder.name}, there are {found}")
        await asyncio.sleep(0.1)


def _index_size(stack: Stack) -> int:
    with urllib.request.urlopen(stack.metrics_url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    [size] = [line.rsplit(" ", 1)[1] for line in lines if line.startswith("tokamak_template_index_size")]
    return int(float(size))
