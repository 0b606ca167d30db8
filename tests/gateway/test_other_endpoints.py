"""Completions, embeddings and the list of models, by the official client."""

from __future__ import annotations

import math
from typing import Any

import openai
import pytest

from tests.gateway.live import MODELS, Fleet, assert_error, payloads
from tests.upstream import answer, fixed

OWN = "tokamak-encoder-static"


@pytest.mark.parametrize("model", ["alpha", "auto", "auto:best"])
def test_a_completion(abc: Fleet, model: str) -> None:
    completion = abc.client.completions.create(model=model, prompt="Once upon a time", max_tokens=5)
    assert completion.choices[0].text == "Hello there."
    assert completion.usage is not None
    called = abc.called()
    assert len(called) == 1
    assert abc[called[0]].last.path == "/v1/completions"


@pytest.mark.parametrize("model", ["alpha", "auto"])
def test_a_streamed_completion(abc: Fleet, model: str) -> None:
    chunks = list(abc.client.completions.create(model=model, prompt="Once", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Hello there."


def test_a_completion_passes_byte_for_byte_and_is_logged(abc: Fleet) -> None:
    sent = rb'{"prompt":["a\u00e9",  [1,2]], "model":"alpha","echo":true,"logprobs":3,"best_of":2,"suffix":"\/"}'
    back = (
        rb'{"id":"cmpl-1","choices":[{"text":"\u00e9","index":0,"finish_reason":"length"}],"usage":{"prompt_tokens":1}}'
    )
    abc["alpha"].script(fixed(200, back))
    response = abc.post("/v1/completions", sent)
    assert response.content == back
    assert abc["alpha"].last.body == sent
    record = abc.record_of(response)
    assert (record.outcome, record.model, record.answer_id) == ("ok", "alpha", "cmpl-1")
    assert "completions" in record.endpoint
    assert "chat" not in record.endpoint


def test_a_usage_chunk_of_a_completion_is_hidden_unless_asked_for(abc: Fleet) -> None:
    abc["alpha"].script(answer("x", usage_place="always"), answer("x", usage_place="always"))
    body = {"model": "alpha", "prompt": "x", "stream": True}
    hidden = payloads(abc.post("/v1/completions", body))
    shown = payloads(abc.post("/v1/completions", {**body, "stream_options": {"include_usage": True}}))
    assert len(shown) == len(hidden) + 1


def test_embeddings_are_passed_through(abc: Fleet) -> None:
    sent = b'{"model":"alpha", "input":["a","b"],"encoding_format":"float","dimensions":3,"tomorrow":1.0}'
    response = abc.post("/v1/embeddings", sent)
    assert abc["alpha"].last.body == sent
    assert abc["alpha"].last.path == "/v1/embeddings"
    assert [row["embedding"] for row in response.json()["data"]] == [[0.5, -0.25, 0], [0.5, -0.25, 1]]
    assert abc.record_of(response).outcome == "ok"


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_the_services_own_encoder_is_a_model(abc: Fleet, encoding: str | None) -> None:
    wished: dict[str, Any] = {} if encoding is None else {"encoding_format": encoding}
    made = abc.client.embeddings.create(model=OWN, input=["a cat", "a kitten", "quarterly tax report"], **wished)
    assert abc.called() == []
    assert made.model == OWN
    assert [row.index for row in made.data] == [0, 1, 2]
    if encoding == "base64":
        assert all(isinstance(row.embedding, str) for row in made.data)
        return
    cat, kitten, tax = (row.embedding for row in made.data)
    assert math.fsum(x * x for x in cat) == pytest.approx(1, abs=1e-3)
    near, far = (math.fsum(a * b for a, b in zip(cat, other, strict=True)) for other in (kitten, tax))
    assert near > far


def test_one_text_gives_the_same_vector_alone_and_in_a_batch(abc: Fleet) -> None:
    alone = abc.post("/v1/embeddings", {"model": OWN, "input": "a cat"}).json()["data"]
    batch = abc.post("/v1/embeddings", {"model": OWN, "input": ["other", "a cat"]}).json()["data"]
    assert alone[0]["embedding"] == pytest.approx(batch[1]["embedding"], abs=1e-6)


@pytest.mark.parametrize("given", ["", [], None, [[1, 2]], [1, 2], {"a": 1}, [""], 7])
def test_the_own_encoder_takes_only_texts(abc: Fleet, given: object) -> None:
    response = abc.post("/v1/embeddings", {"model": OWN, "input": given})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == "input"
    assert abc.record_of(response).outcome == "rejected"


def test_the_own_encoder_does_not_chat(abc: Fleet) -> None:
    message = assert_error(abc.chat(OWN), 400, "invalid_request_error", "unsupported_model", "model")
    assert OWN in message
    assert abc.called() == []


def test_a_text_with_the_name_of_the_encoder_goes_to_its_model(abc: Fleet) -> None:
    response = abc.post("/v1/embeddings", {"model": "beta", "input": f"what is {OWN}?"})
    assert response.status_code == 200
    assert abc.called() == ["beta"]


def test_the_models_are_the_virtual_and_the_concrete_ones(abc: Fleet) -> None:
    models = {model.id: model for model in abc.client.models.list()}
    assert {"auto", "auto:cheap", "auto:balanced", "auto:best", *MODELS, OWN} <= set(models)
    assert all(model.object == "model" and model.owned_by for model in models.values())
    for name in models:
        assert abc.client.models.retrieve(name).id == name
    assert abc.called() == []


def test_an_unknown_model_is_not_found_with_the_nearest_names(abc: Fleet) -> None:
    message = assert_error(abc.http.get("/v1/models/gama"), 404, "not_found_error", "model_not_found", "model")
    assert "gamma" in message
    with pytest.raises(openai.NotFoundError):
        abc.client.models.retrieve("nothing-like-it")
