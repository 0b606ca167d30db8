"""The replay server, asked by the official client over HTTP."""

from __future__ import annotations

import subprocess
import sys

import httpx
import openai
import pytest

from demo.replay.completion import EXTENSION, TOKENS_PER_SECOND, Completion
from demo.replay.sample import ReplaySample
from demo.replay.server import main
from tests.demo_replay.conftest import LONG


@pytest.fixture
def client(replay_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=replay_url, api_key="unused", max_retries=0)


def ask(client: openai.OpenAI, text: str, model: str = "small") -> openai.types.chat.ChatCompletion:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])


def test_the_logged_answer_comes_back(client: openai.OpenAI) -> None:
    answer = ask(client, "  Which   letter?\n")
    assert answer.choices[0].message.content == LONG
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "small"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == round(len(LONG) / 4)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    origin = answer.model_extra[EXTENSION]  # type: ignore[index]
    assert origin == {"dataset": "tiny", "task": "t", "query_id": "1", "text": "logged", "usage": "answer_length"}
    assert ask(client, "Which letter?", "large").choices[0].message.content == "G"


def test_an_answer_without_text_says_so(client: openai.OpenAI) -> None:
    answer = ask(client, "How many?")
    assert answer.choices[0].message.content == (
        "[replay] The log tiny keeps no text of this answer, only its score by exact_match."
    )
    assert answer.model_extra[EXTENSION]["text"] == "not_logged"  # type: ignore[index]


def test_no_score_leaves_the_server(replay_url: str) -> None:
    body = {"model": "small", "messages": [{"role": "user", "content": "How many?"}]}
    answer = httpx.post(f"{replay_url}/chat/completions", json=body).json()
    assert "scores" not in str(answer)
    assert set(answer[EXTENSION]) == {"dataset", "task", "query_id", "text", "usage"}


@pytest.mark.parametrize("include_usage", [True, False])
def test_stream_carries_the_same_text_and_usage(client: openai.OpenAI, include_usage: bool) -> None:
    whole = ask(client, "Which letter?")
    chunks = list(
        client.chat.completions.create(
            model="small",
            messages=[{"role": "user", "content": "Which letter?"}],
            stream=True,
            stream_options={"include_usage": include_usage},
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == LONG
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert [c.usage for c in chunks if c.usage] == ([whole.usage] if include_usage else [])


def test_the_last_user_message_is_looked_up(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="large",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "How many?"},
            {"role": "assistant", "content": "Three."},
            {"role": "user", "content": [{"type": "text", "text": "Which letter?"}]},
        ],
    )
    assert answer.choices[0].message.content == "G"


def test_models_are_listed_with_the_source_of_their_prices(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["small", "large"]


@pytest.mark.parametrize(("text", "model", "code", "says"), [
    ("Which letter?", "smal", "model_not_found", "near: small"),
    ("Never asked", "small", "query_not_logged", "3 logged queries"),
    ("Who?", "large", "answer_not_logged", "ask another model"),
])  # fmt: skip
def test_what_is_not_logged_is_not_found(client: openai.OpenAI, text: str, model: str, code: str, says: str) -> None:
    with pytest.raises(openai.NotFoundError, match=says) as caught:
        ask(client, text, model)
    assert caught.value.code == code
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(("body", "param"), [
    (b"{", None),
    (b"[]", None),
    (b'{"messages": []}', "model"),
    (b'{"model": "small", "messages": "hi"}', "messages"),
    (b'{"model": "small", "messages": []}', "messages"),
    (b'{"model": "small", "messages": [7, {"role": "user", "content": 5}]}', "messages"),
    (b'{"model": "small", "messages": [{"role": "user", "content": "Who?"}], "n": 2}', "n"),
])  # fmt: skip
def test_bad_requests_get_the_error_object(replay_url: str, body: bytes, param: str | None) -> None:
    answer = httpx.post(f"{replay_url}/chat/completions", content=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param


def test_other_paths_and_methods_are_refused(replay_url: str) -> None:
    assert httpx.get(f"{replay_url}/nothing").status_code == 404
    assert httpx.get(f"{replay_url}/chat/completions").status_code == 405
    assert httpx.get(replay_url.removesuffix("/v1") + "/health").status_code == 200


def test_speed_scales_the_logged_latency(sample: ReplaySample) -> None:
    query = sample.queries[0]
    reply = sample.reply(query, "small")
    assert reply is not None
    guessed = Completion(sample, query, "small", reply)
    assert guessed.seconds(0) == 0
    assert guessed.seconds(2) == pytest.approx(reply.completion_tokens / TOKENS_PER_SECOND / 2)
    measured = Completion(sample, query, "small", reply._replace(latency_s=3.0))
    assert measured.seconds(10) == pytest.approx(0.3)


def test_unknown_sample_ends_the_process_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--port", "0", "--pool", "nothing"]) == 2
    assert "llmrouter14" in capsys.readouterr().err


def test_the_server_needs_only_the_base_install() -> None:
    heavy = "{'torch', 'transformers', 'sklearn', 'pyarrow', 'onnxruntime', 'matplotlib'}"
    code = (
        f"import sys, demo.replay.server; loaded = {heavy} & set(sys.modules); sys.exit(str(loaded) if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
