"""Does a conversation keep its arm where a change would cost more than it gains, and never fall to a lesser one?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.gateway.live import Fleet, fleet
from tests.upstream import answer

MODELS: dict[str, dict[str, Any]] = {
    "tiny": {"quality_prior": 0.6, "prices": {"prompt_per_1m": 0.1, "completion_per_1m": 0.4}},
    "large": {
        "quality_prior": 0.9,
        "prices": {"prompt_per_1m": 10.0, "completion_per_1m": 40.0, "cached_input_per_1m": 1.0},
    },
}
QUESTION = "Write an LRU cache in Python with a time to live per entry, and test it under threads."
FOLLOW_UPS = ("commit it", "yes", "mach weiter", "それをもっと短くして", "and now push that")


@pytest.fixture(scope="module")
def _live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """By default the tiny model wins: only what the conversation remembers can keep the large one."""
    with fleet(tmp_path_factory.mktemp("talks"), MODELS, routes={"auto": {"preference": 0.2}, "loose": {
        "preference": 0.2, "affinity": False}}) as made:  # fmt: skip
        yield made


@pytest.fixture
def live(_live: Fleet) -> Fleet:
    _live.forget()
    return _live


def opened(live: Fleet, question: str, **fields: Any) -> list[Any]:
    """A conversation whose first turn the large model answered, because only it was allowed then."""
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
    response = live.chat(messages=messages, routing={"models": ["large"]}, **fields)
    assert response.headers["x-tokamak-model"] == "large"
    live.record_of(response)
    return [*messages, {"role": "assistant", "content": "Done."}]


def test_without_a_conversation_the_tiny_model_would_answer(live: Fleet) -> None:
    alone = live.chat(messages=[{"role": "user", "content": "commit it"}])
    assert alone.headers["x-tokamak-model"] == "tiny"


@pytest.mark.parametrize("fields", [{}, {"prompt_cache_key": "p-1"}, {"metadata": {"session_id": "s-1"}}])
def test_six_turns_without_a_downgrade(live: Fleet, fields: dict[str, Any]) -> None:
    messages = opened(live, f"{QUESTION} {fields}", **fields)
    for turn in FOLLOW_UPS:
        messages.append({"role": "user", "content": turn})
        reply = live.client.chat.completions.create(
            model="auto",
            messages=messages,
            extra_body={"routing": {"explain": True}, **fields},
        )
        route = reply.model_extra["route"] if reply.model_extra else {}
        assert (route["arm"], route["affinity"], route["previous_arm"]) == ("large", "retain", "large")
        assert sum(c["propensity"] for c in route["candidates"]) == pytest.approx(1.0)
        messages.append({"role": "assistant", "content": "Done."})
    assert live.calls() == {"tiny": 0, "large": 1 + len(FOLLOW_UPS)}


@pytest.mark.parametrize("header", ["x-session-id", "x-conversation-id", "x-claude-code-session-id"])
def test_a_session_header_names_the_conversation(live: Fleet, header: str) -> None:
    headers = {header: f"h-{header}"}
    opened(live, QUESTION, headers=headers)
    response = live.chat(messages=[{"role": "user", "content": "commit it"},], headers=headers)  # fmt: skip
    # A follow-up needs a turn to go back to; the arm of the session counts all the same.
    record = live.record_of(response)
    assert record.session == f"h-{header}"
    assert record.decision is not None
    assert record.decision.previous_arm == "large"


def test_a_new_question_may_change_the_model_if_the_gain_exceeds_the_cold_prefix(live: Fleet) -> None:
    messages = opened(live, "Who wrote Hamlet?")
    messages.append({"role": "user", "content": "Summarise the plot of Hamlet in three sentences for a child of ten."})
    response = live.chat(messages=messages)
    record = live.record_of(response)
    assert record.decision is not None
    assert (record.arm, record.decision.affinity) == ("tiny", "switch")
    back = live.chat(messages=messages, routing={"preference": 0.85, "models": ["*"]})
    assert back.headers["x-tokamak-model"] == "large"


def test_a_long_warm_prefix_keeps_a_cheap_arm_where_the_gain_is_small(tmp_path: Path) -> None:
    """The large model gains 0.9 * 0.3 in quality and loses 0.1 in cost; a cold prefix takes up to 0.1 more."""
    models = {"tiny": MODELS["tiny"], "large": {**MODELS["large"], "quality_prior": 0.73}}
    usage = {"prompt_tokens": 90_000, "completion_tokens": 10, "total_tokens": 90_010}
    with fleet(tmp_path, models, routes={"auto": {"preference": 0.9}}) as live:
        live["tiny"].default = answer("x", usage=usage)
        messages: list[Any] = [{"role": "user", "content": "How tall is the tower in Paris, measured in metres?"}]
        question = {"role": "user", "content": "Name the highest mountains of each continent, with their heights."}
        fresh = live.chat(messages=[question])
        assert fresh.headers["x-tokamak-model"] == "large"
        live.record_of(live.chat(messages=messages, routing={"models": ["tiny"]}))
        warm = live.chat(messages=[*messages, {"role": "assistant", "content": "x"}, question])
        assert warm.headers["x-tokamak-model"] == "tiny"
        cold = live.chat(
            messages=[*messages, {"role": "assistant", "content": "x"}, question], routing={"affinity": False}
        )
        assert cold.headers["x-tokamak-model"] == "large"


def test_affinity_can_be_switched_off_for_a_route_and_for_a_request(live: Fleet) -> None:
    messages = [*opened(live, "Begin a story about a fox."), {"role": "user", "content": "go on"}]
    assert live.chat(messages=messages, routing={"affinity": False}).headers["x-tokamak-model"] == "tiny"
    loose = live.chat("loose", messages=messages, routing={"explain": True})
    assert loose.headers["x-tokamak-model"] == "tiny"
    assert loose.json()["route"]["affinity"] is None


def test_conversations_that_begin_alike_do_not_meet_before_their_second_turn(live: Fleet) -> None:
    messages = opened(live, "Tell me a joke about databases and transactions.")
    again = live.chat(messages=messages[:2])
    assert again.headers["x-tokamak-model"] == "tiny"


def test_another_wish_of_the_caller_is_not_held_back_by_an_earlier_one(live: Fleet) -> None:
    messages = [*opened(live, "Prove that there are infinitely many primes."), {"role": "user", "content": "again"}]
    assert live.chat("auto", messages=messages, routing={"preference": 0.1}).headers["x-tokamak-model"] == "tiny"


def test_only_so_many_conversations_are_remembered(tmp_path: Path) -> None:
    with fleet(tmp_path, MODELS, routes={"auto": {"preference": 0.2}}, limits={"conversations": 1}) as live:
        first = opened(live, "First question, about ships.")
        second = opened(live, "Second question, about trains.")
        assert live.chat(messages=[*second, {"role": "user", "content": "again"}]).headers["x-tokamak-model"] == "large"
        assert live.chat(messages=[*first, {"role": "user", "content": "again"}]).headers["x-tokamak-model"] == "tiny"


def test_keys_do_not_share_conversations(tmp_path: Path) -> None:
    keys = [{"id": name, "key_env": name.upper()} for name in ("one", "two")]
    environ = {"ONE": "sk-one", "TWO": "sk-two"}
    with fleet(tmp_path, MODELS, key="sk-one", environ=environ, limits={"keys": keys},
               routes={"auto": {"preference": 0.2}}) as live:  # fmt: skip
        messages = [*opened(live, QUESTION), {"role": "user", "content": "again"}]
        other = openai.OpenAI(base_url=live.gateway.url, api_key="sk-two", max_retries=0)
        assert other.chat.completions.create(model="auto", messages=messages).model == "tiny"
        assert live.chat(messages=messages).headers["x-tokamak-model"] == "large"
