"""A round killed by kill -9 at every step: the log folds, nothing is asked or paid twice, the result is the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from offline.bohdi.events import AnyEvent
from offline.bohdi.journal import RoundDiverged
from offline.bohdi.log import EpisodeLog
from tests.bohdi.speakers import Speaker, World, repeated, world_of
from tests.house import ROOT
from tests.upstream import ScriptedUpstream, failing

NURSERY = """
import asyncio, json, os, signal, sys
from pathlib import Path
import offline.bohdi.fan_out as sending
import offline.bohdi.log as logs
from tests.bohdi.speakers import ENCODER, pool_of
from offline.bohdi.rounds import meditate
from offline.bohdi.settings import Settings
import msgspec

given = json.loads(sys.argv[1])
settings = msgspec.convert(given["settings"], Settings)
pool = pool_of(given["url"], given["models"])
steps = 0

def step(at):
    global steps
    steps += 1
    if steps == at:
        os.kill(os.getpid(), signal.SIGKILL)

def around(real, at):
    def counted(*arguments):
        step(at)
        result = real(*arguments)
        step(at)
        return result
    return counted

def kept(real, at):
    def counted(*arguments):
        real(*arguments)
        step(at)
    return counted

def sent(real, at):
    async def counted(*arguments, **named):
        step(at)
        return await real(*arguments, **named)
    return counted

async def one_by_one(self, calls, keep):
    for call in calls:
        await keep(call, await self.reply(call))

def life(at):
    log = logs.EpisodeLog
    log.append, log.snapshot = around(log.append, at), around(log.snapshot, at)
    log.keep_reply = kept(log.keep_reply, at)
    sending.reply_to = sent(sending.reply_to, at)
    if given["one_by_one"]:
        sending.Line.run = one_by_one
    with logs.EpisodeLog(given["log"]) as log:
        if log.tree().state.rounds_ended:
            return
        report = asyncio.run(meditate(log, settings, pool, encoder=ENCODER, first_wait_s=0.0))
    Path(given["report"]).write_bytes(msgspec.json.encode(report))

for stated in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            life(int(stated))
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""
"""Gives birth to processes that run a round and die at the step that is told: one import serves them all.

Steps are both sides of every line that writes to the log, and of every call, but for one: between a reply's coming and
its being kept nobody can know that it came.
"""


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(default=failing(500, "nothing is scripted")) as server:
        yield server


class Nursery:
    """Runs rounds in processes of their own."""

    def __init__(self, world: World, log: Path, settings: dict[str, Any], *, one_by_one: bool = False) -> None:
        self.report = log.with_suffix(".json")
        given = {
            "settings": settings, "url": world.upstream.url, "models": list(world.pool.models), "log": str(log),
            "report": str(self.report), "one_by_one": one_by_one,
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY, json.dumps(given)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def life(self, dies_at: int) -> int:
        """One process; its exit code, -9 if it was killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{dies_at}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


def timeless(path: Path) -> list[AnyEvent]:
    with EpisodeLog(path) as log:
        return [msgspec.structs.replace(event, at=0.0) for _, event in log.events()]


@pytest.mark.slow
def test_a_round_that_dies_at_every_step_comes_to_the_same_and_pays_nothing_twice(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Every life dies at its first step that no life before it has died at, so every step is cut once.

    Calls go out one by one here, so that none is under way when its process dies.
    """
    speakers = {"alpha": Speaker(open_questions=True), "beta": Speaker(open_questions=True)}
    world = world_of(upstream, tmp_path, **speakers)
    settings = msgspec.structs.replace(world.settings, sources=("alpha", "beta"), paths_per_round=3)
    stated = msgspec.to_builtins(settings)
    clean = Nursery(world, tmp_path / "clean.db", stated, one_by_one=True)
    assert clean.life(0) == 0
    clean.close()
    wanted, paid = timeless(tmp_path / "clean.db"), len(upstream.requests)
    upstream.requests.clear()

    path = tmp_path / "killed.db"
    nursery, deaths, dies_at, written = Nursery(world, path, stated, one_by_one=True), 0, 1, (0, 0)
    try:
        while (code := nursery.life(dies_at)) != 0:
            assert code == -9, f"the life after {deaths} deaths ended with {code}"
            deaths += 1
            with EpisodeLog(path) as log:
                tree = log.tree()
                assert tree.digest() == log.fold().digest()
                now = (tree.state.events, sum(1 for _ in log.replies()))
            dies_at = dies_at + 1 if now == written else 1
            written = now
    finally:
        nursery.close()
    assert deaths > 2 * paid
    assert timeless(path) == wanted
    assert len(upstream.requests) == paid
    assert repeated(upstream.requests) == []


@pytest.mark.slow
def test_a_round_killed_at_any_one_step_goes_on_with_many_calls_under_way(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    world = world_of(upstream, tmp_path)
    stated = msgspec.to_builtins(world.settings)
    clean = Nursery(world, tmp_path / "clean.db", stated)
    assert clean.life(0) == 0
    clean.close()
    wanted = timeless(tmp_path / "clean.db")
    for dies_at in (2, 23, 57, 76):
        upstream.requests.clear()
        nursery = Nursery(world, tmp_path / f"{dies_at}.db", stated)
        assert nursery.life(dies_at) == -9
        assert nursery.life(0) == 0
        nursery.close()
        assert timeless(tmp_path / f"{dies_at}.db") == wanted
        # Only what was under way at the kill can have been asked again: at most the places of every model.
        assert len(repeated(upstream.requests)) <= 4 * world.settings.concurrency


async def test_a_round_that_goes_on_takes_the_replies_it_has(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    world = world_of(upstream, tmp_path)

    def stop(step: str, share: float) -> None:
        if share >= 1.0:
            raise KeyError(step)

    with world.log() as log:
        with pytest.raises(KeyError):
            await world.meditate(log, told=stop)
        before = len(upstream.requests)
        report = await world.meditate(log)
    assert (report.went_on, report.calls, report.contests) == (True, 0, 6)
    assert len(upstream.requests) == before
    assert report.cost_usd is not None
    assert report.cost_usd > 0, "what was paid before the stop is part of the round's cost"


async def test_a_round_does_not_go_on_with_other_prompts_or_another_encoder(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    world = world_of(upstream, tmp_path)

    def stop(step: str, share: float) -> None:
        if share:
            raise KeyError(step)

    with world.log() as log:
        with pytest.raises(KeyError):
            await world.meditate(log, told=stop)
        with pytest.raises(RoundDiverged, match="was begun with the prompts standard@"):
            await world.meditate(log, msgspec.structs.replace(world.settings, prompts="tiny"))
        warm = dict.fromkeys(world.settings.sources, 0.9)
        for source in warm:
            upstream.for_model(source, Speaker(says=(("propose", lambda _: "<field>Law</field>"),)))
        with pytest.raises(RoundDiverged, match="going on it comes to Sprouted"):
            await world.meditate(log, msgspec.structs.replace(world.settings, temperatures=warm))
        assert (await world.meditate(log)).went_on
