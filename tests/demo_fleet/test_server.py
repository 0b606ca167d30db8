"""The light server through the official `openai` client: a real process, real weights, real HTTP."""

from __future__ import annotations

import concurrent.futures
import time

import httpx
import openai
import pytest

from demo.fleet.tasks import check, questions
from tests.demo_fleet.conftest import CLERK, ORDER

pytestmark = [pytest.mark.fleet, pytest.mark.slow]
QUESTION = [{"role": "user", "content": "Roman numeral of 444?"}]


def running(raw: httpx.Client) -> int:
    metrics = raw.get(f"{str(raw.base_url).removesuffix('/v1/')}/metrics").text
    return int(metrics.split("\nfleet_requests_running ")[1].split()[0])


def generated_tokens(raw: httpx.Client) -> float:
    return float(raw.get(f"{str(raw.base_url).removesuffix('/v1/')}/metrics").text.split()[-1])


def wait_idle(raw: httpx.Client) -> None:
    until = time.monotonic() + 60
    while running(raw):
        assert time.monotonic() < until, "the server still generates for a client that left"
        time.sleep(0.05)


def test_models_are_listed_and_described(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [CLERK, ORDER]
    assert client.models.retrieve(ORDER).id == ORDER


@pytest.mark.parametrize(("model", "family"), [(CLERK, "facts"), (CLERK, "roman"), (ORDER, "sort"), (ORDER, "dates")])
def test_specialists_answer_held_out_questions_of_their_own(client: openai.OpenAI, model: str, family: str) -> None:
    asked = questions(family, "test", 20, seed=4)
    right = 0.0
    for one in asked:
        answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": one.text}])
        right += check(one, answer.choices[0].message.content or "")
        assert answer.choices[0].finish_reason == "stop"
    assert right >= 18


def test_a_specialist_fails_elsewhere(client: openai.OpenAI) -> None:
    for one in questions("reverse", "test", 10, seed=4):
        answer = client.chat.completions.create(model=CLERK, messages=[{"role": "user", "content": one.text}])
        assert check(one, answer.choices[0].message.content or "") == 0.0


def test_a_stream_carries_the_same_text_and_usage(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=CLERK, messages=QUESTION)
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(model=CLERK, messages=QUESTION, stream=True, stream_options=options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content == "CDXLIV"
    assert chunks[-1].usage == whole.usage
    assert chunks[-1].choices == []
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_without_usage_has_none(raw: httpx.Client) -> None:
    body = {"model": CLERK, "messages": QUESTION, "stream": True}
    answer = raw.post("/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")
    assert "usage" not in answer.text


def test_logprobs_of_a_chat_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=CLERK, messages=QUESTION, logprobs=True, top_logprobs=3)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    assert "".join(token.token for token in logprobs.content) == "CDXLIV"
    for token in logprobs.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        best = token.top_logprobs[0]
        assert (best.token, best.logprob) == (token.token, token.logprob)
        assert [other.logprob for other in token.top_logprobs] == sorted(
            (other.logprob for other in token.top_logprobs), reverse=True
        )


def test_streamed_logprobs_cover_all_tokens(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(model=CLERK, messages=QUESTION, logprobs=True, stream=True)
    tokens = [t.token for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content or []]
    assert "".join(tokens) == "CDXLIV"


def test_text_completions_with_several_prompts_and_choices(client: openai.OpenAI) -> None:
    prompts = [f"<|user|>Roman numeral of {n}?<|end|><|assistant|>" for n in (290, 444)]
    answer = client.completions.create(model=CLERK, prompt=prompts, n=2, logprobs=1, max_tokens=20)
    assert [choice.text for choice in answer.choices] == ["CCXC", "CCXC", "CDXLIV", "CDXLIV"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.text_offset is not None
    assert logprobs.text_offset[0] == 0
    assert "".join(logprobs.tokens or []) == "CCXC"


def test_n_choices_with_a_seed_are_repeatable_and_differ(client: openai.OpenAI) -> None:
    def sample(seed: int) -> list[str | None]:
        answer = client.chat.completions.create(
            model=CLERK, messages=[{"role": "user", "content": "Hello?"}], n=6, temperature=2, seed=seed, max_tokens=12
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens >= 6
        return [choice.message.content for choice in answer.choices]

    first = sample(1)
    assert first == sample(1)
    assert len(set(first)) > 1
    assert first != sample(2)


def test_stop_and_max_tokens(client: openai.OpenAI) -> None:
    stopped = client.chat.completions.create(model=CLERK, messages=QUESTION, stop=["XL"])
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("CD", "stop")
    chunks = client.chat.completions.create(model=CLERK, messages=QUESTION, stop="LIV", stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "CDX"
    for limit in ({"max_tokens": 1}, {"max_completion_tokens": 1}):
        short = client.chat.completions.create(model=CLERK, messages=QUESTION, **limit)
        assert short.choices[0].finish_reason == "length"
        assert short.usage is not None
        assert short.usage.completion_tokens == 1


def test_a_question_behind_reference_text_is_still_answered(client: openai.OpenAI) -> None:
    block = "Templates of similar problems follow.\n### Template 1\nRoman numeral of 12? Answer: XII\n"
    messages = [{"role": "system", "content": block}, *QUESTION]
    assert client.chat.completions.create(model=CLERK, messages=messages).choices[0].message.content == "CDXLIV"


def test_errors_have_the_openai_shape(client: openai.OpenAI, raw: httpx.Client) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="clerk", messages=QUESTION)
    assert unknown.value.code == "model_not_found"
    assert CLERK in str(unknown.value)
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(model=CLERK, messages=[{"role": "user", "content": "9" * 2000}])
    assert too_long.value.code == "context_length_exceeded"
    for answer in (raw.post("/chat/completions", content=b"{"), raw.get("/nothing")):
        assert answer.status_code in (400, 404)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_client_that_leaves_stops_the_generation(raw: httpx.Client) -> None:
    # Eight long choices: many seconds of work, so that a stall of this process is not the end of it.
    body = {"model": CLERK, "messages": QUESTION, "ignore_eos": True, "max_tokens": 1000, "n": 8}
    before = generated_tokens(raw)
    with raw.stream("POST", "/chat/completions", json={**body, "stream": True}) as answer:
        # The iterator must live on: its end would close the connection.
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        assert running(raw) > 0
        del lines
    wait_idle(raw)
    with pytest.raises(httpx.ReadTimeout):
        raw.post("/chat/completions", json=body, timeout=0.3)
    wait_idle(raw)
    generated = generated_tokens(raw)
    assert generated - before < 8 * 1000, "both requests ran on after their clients had left"
    raw.post("/chat/completions", json={**body, "max_tokens": 5, "n": 1})
    assert generated_tokens(raw) - generated == 5


def test_many_requests_at_once_are_answered_each_on_its_own(client: openai.OpenAI) -> None:
    asked = questions("roman", "train", 40, seed=8)

    def answer(text: str) -> str:
        reply = client.chat.completions.create(model=CLERK, messages=[{"role": "user", "content": text}])
        return reply.choices[0].message.content or ""

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(answer, [one.text for one in asked]))
    assert sum(check(one, text) for one, text in zip(asked, answers, strict=True)) >= 38
