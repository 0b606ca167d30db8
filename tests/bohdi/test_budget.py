"""What a round may cost: said before, kept under a cap, and a round that runs out ends cleanly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline.bohdi.budget import FRAME_TOKENS, Budget, Most, most_of
from offline.bohdi.events import Contested, RoundEnded
from registry.arms import Prices
from tests.bohdi.speakers import PRICES, Speaker, World, world_of
from tests.upstream import ScriptedUpstream, failing


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(default=failing(500, "nothing is scripted")) as server:
        yield server


def test_the_most_of_a_call_is_its_prompt_and_the_longest_answer() -> None:
    assert most_of("x" * 40, 100, PRICES) == Most(10 + FRAME_TOKENS + 100, (18 * 1.0 + 100 * 2.0) / 1e6)
    assert most_of("x", 5, Prices()) == Most(1 + FRAME_TOKENS + 5, None)


def test_what_is_not_known_of_a_call_counts_as_the_most() -> None:
    budget = Budget(1.0, 100)
    assert budget.hold(Most(60, 0.5))
    assert not budget.hold(Most(60, 0.1)), "more tokens than are left"
    assert not budget.hold(Most(10, 0.6)), "more USD than are left"
    budget.settle(Most(60, 0.5), 20, 0.1)
    assert (budget.tokens, budget.usd, budget.priced) == (20, 0.1, True)
    assert budget.hold(Most(60, 0.5))
    budget.settle(Most(60, 0.5), None, None)
    assert budget.tokens == 80
    assert budget.usd == pytest.approx(0.6)
    assert Budget().hold(Most(10**9, None))


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), max_size=40),
    st.integers(1, 300),
)
def test_calls_that_stay_under_their_most_never_pass_the_cap(calls: list[tuple[int, int]], cap: int) -> None:
    budget, held = Budget(None, cap), list[tuple[Most, int]]()
    for most, used in calls:
        if budget.hold(Most(most, None)):
            held.append((Most(most, None), min(used, most)))
        if len(held) > 2:
            most_held, real = held.pop(0)
            budget.settle(most_held, real, None)
        assert budget.tokens + sum(m.tokens for m, _ in held) <= cap


async def spent(world: World, name: str, **caps: float) -> tuple[list[Contested], RoundEnded, int, float]:
    """A round under these caps: its contests, its end, tokens and USD spent."""
    settings = msgspec.structs.replace(world.settings, paths_per_round=70, **caps)
    with world.log(name) as log:
        report = await world.meditate(log, settings)
        events = [event for _, event in log.events()]
        assert log.tree().digest() == log.fold().digest()
    ended = events[-1]
    assert isinstance(ended, RoundEnded)
    assert report.cost_usd is not None
    return [event for event in events if isinstance(event, Contested)], ended, report.tokens, report.cost_usd


@pytest.mark.slow
async def test_a_round_that_runs_out_ends_cleanly_with_what_it_could_afford(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    world = world_of(upstream, tmp_path)
    held, ended, tokens, usd = await spent(world, "whole")
    assert (len(held), ended.stopped_by) == (70, "")
    part, stopped, used, _ = await spent(world, "tokens", max_tokens_per_round=round(tokens * 0.6))
    assert 0 < len(part) < 70
    assert stopped.stopped_by == "budget"
    assert stopped.contests >= len(part) - 1, "contests that were begun were not paid to their end"
    assert used <= tokens * 0.6
    part, stopped, _, paid = await spent(world, "usd", max_usd_per_round=usd * 0.6)
    assert 0 < len(part) < 70
    assert stopped.stopped_by == "budget"
    assert paid <= usd * 0.6
    assert stopped.cost_usd == pytest.approx(paid)


async def test_a_budget_for_nothing_asks_nobody(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    world = world_of(upstream, tmp_path)
    held, ended, tokens, _ = await spent(world, "tree", max_tokens_per_round=10)
    assert (held, ended.stopped_by, tokens) == ([], "budget", 0)
    assert upstream.requests == []


async def test_the_next_round_has_a_budget_of_its_own(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    world = world_of(upstream, tmp_path)
    settings = msgspec.structs.replace(world.settings, max_tokens_per_round=60_000)
    with world.log() as log:
        first, second = await world.meditate(log, settings), await world.meditate(log, settings)
    assert first.contests == second.contests == 6
    assert max(first.tokens, second.tokens) <= 60_000


async def test_answers_without_a_word_on_their_usage_count_as_the_longest(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    world = world_of(upstream, tmp_path, alpha=Speaker(usage=False))
    with world.log() as log:
        report = await world.meditate(log)
        held = [event for _, event in log.events() if isinstance(event, Contested)]
    assert all(event.replies[1].tokens is None for event in held), "what is not known is not 0"
    assert all(event.cost_usd is None for event in held)
    assert report.tokens > 6 * 2048
