"""Tokenizers, sampling and stop strings of the light server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the demo fleet needs torch; install the extra `demo`")
pytest.importorskip("transformers", reason="the demo fleet needs transformers; install the extra `demo`")

import torch

from demo.fleet.decoding import render
from demo.fleet.engine import first_stop, safe_length
from demo.fleet.sampling import Sampler
from demo.fleet.tokenization import byte_level, characters
from demo.fleet.wire import Sampling

pytestmark = pytest.mark.fleet
CHARACTERS = characters()
BYTES = byte_level(["Write 7 March 1994 as an ISO date."], 300)
LOGITS = torch.tensor([0.0, 2.0, 1.0, -1.0])


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_characters_read_back(text: str) -> None:
    ids = CHARACTERS.encode(text, add_special_tokens=False).ids
    assert CHARACTERS.decode(ids, skip_special_tokens=False) == text


@given(st.text(max_size=40))
def test_bytes_read_back_any_text(text: str) -> None:
    assert BYTES.decode(BYTES.encode(text).ids, skip_special_tokens=False) == text


def test_every_digit_is_a_token() -> None:
    assert [BYTES.decode([token]) for token in BYTES.encode("1994").ids] == list("1994")


def test_the_chat_template_writes_roles_parts_and_the_start_of_the_reply() -> None:
    messages = [{"role": "developer", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b"}]}]
    assert render(messages) == "<|user|>a<|end|><|user|>b<|end|><|assistant|>"
    assert render([{"role": "system", "content": "s"}]) == "<|system|>s<|end|><|assistant|>"
    assert render([{"role": "assistant", "content": None}]) == "<|assistant|><|end|><|assistant|>"


def test_greedy_takes_the_most_likely_token_and_reports_true_logprobs() -> None:
    choice = Sampler(Sampling(max_tokens=1, top_logprobs=2)).choose(LOGITS, [])
    assert choice.token == 1
    assert choice.top[0] == (1, pytest.approx(choice.logprob))
    assert choice.logprob == pytest.approx(float(torch.log_softmax(LOGITS, -1)[1]))


def test_sampling_follows_the_chances() -> None:
    sampler = Sampler(Sampling(max_tokens=1, temperature=1.0, seed=0))
    drawn = torch.bincount(torch.tensor([sampler.choose(LOGITS, []).token for _ in range(4000)]), minlength=4) / 4000
    assert torch.allclose(drawn, torch.softmax(LOGITS, -1), atol=0.03)


@pytest.mark.parametrize("limit", [{"top_k": 2}, {"top_p": 0.8}])
def test_top_k_and_top_p_leave_only_the_likely_tokens(limit: dict[str, float]) -> None:
    sampler = Sampler(Sampling(max_tokens=1, temperature=1.0, seed=0, **limit))
    assert {sampler.choose(LOGITS, []).token for _ in range(300)} == {1, 2}


def test_penalties_make_repeated_tokens_less_likely() -> None:
    assert Sampler(Sampling(max_tokens=1, presence_penalty=1.5)).choose(LOGITS, [1]).token == 2
    assert Sampler(Sampling(max_tokens=1, frequency_penalty=0.6)).choose(LOGITS, [1, 1]).token == 2


@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=3), max_size=3))
def test_streaming_with_stop_strings_sends_what_the_whole_text_holds(text: str, stops: list[str]) -> None:
    sent = 0
    for size in range(1, len(text) + 1):
        seen = text[:size]
        cut = first_stop(seen, stops)
        if cut is not None:
            assert sent <= cut
            assert cut == first_stop(text, stops) or not any(text[:cut].endswith(s) for s in stops)
            return
        ready = safe_length(seen, stops)
        assert ready >= sent
        sent = ready
    assert first_stop(text, stops) is None
