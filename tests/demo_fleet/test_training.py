"""The corpus and the training loop: nothing from the test split, the chat template exactly, the same weights again."""

from __future__ import annotations

from random import Random

import pytest

pytest.importorskip("torch", reason="the demo fleet needs torch; install the extra `demo`")
pytest.importorskip("transformers", reason="the demo fleet needs transformers; install the extra `demo`")

import torch

from demo.fleet.corpus import HINTS, Pool
from demo.fleet.decoding import greedy, render
from demo.fleet.roster import EVERYTHING, Architecture, Member
from demo.fleet.tasks import STEPS_HINT
from demo.fleet.tokenization import characters
from demo.fleet.training import Encoder, Weights, build, step_rate, train

pytestmark = pytest.mark.fleet
TINY = Member("tiny", "specialist", "llama", ("facts",), 0, 12, 5, hidden=32, intermediate=32, layers=1, batch=8)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return Pool(EVERYTHING, EVERYTHING, 100, seed=3, easy=True)


def test_training_never_draws_a_test_question(pool: Pool) -> None:
    drawn = [*pool.others, *(q for asked in pool.own.values() for q in asked)]
    assert {q.split for q in drawn} == {"train"}
    assert set(pool.own) == set(EVERYTHING)


def test_blocks_stand_before_the_question_and_hints_bring_steps(pool: Pool) -> None:
    rng, stepwise, texts = Random(0), 0, {q.text for q in pool.own["multiply"]}
    for _ in range(200):
        example = pool.behind_block("multiply", rng, 120, hints=True)
        assert any(example.user.endswith(text) for text in texts)
        whole = f"{example.system or ''}{example.user}"
        hinted = any(hint in whole for hint in HINTS)
        assert ("Answer:" in example.reply) == hinted
        stepwise += hinted
    assert 80 < stepwise < 160
    assert STEPS_HINT in HINTS
    assert not any("Answer:" in pool.behind_block("multiply", rng, 120, hints=False).reply for _ in range(50))


def test_prompts_are_written_as_the_chat_template_writes_them(pool: Pool) -> None:
    rng, tokenizer = Random(1), characters()
    for _ in range(50):
        example = pool.behind_block("sort", rng, 120, hints=False)
        messages = [{"role": "user", "content": example.user}]
        if example.system is not None:
            messages.insert(0, {"role": "system", "content": example.system})
        assert Encoder(tokenizer).prompt(example) == tokenizer.encode(render(messages)).ids


def test_only_the_reply_is_learned(pool: Pool) -> None:
    tokenizer = characters()
    examples = [pool.plain(family, Random(2)) for family in EVERYTHING]
    batch = Encoder(tokenizer).batch(examples)
    for row, example in enumerate(examples):
        learned = batch.labels[row][batch.labels[row] != -100].tolist()
        assert tokenizer.decode(learned, skip_special_tokens=False) == f"{example.reply}<|end|>"


def test_a_generalist_is_taught_less_what_it_half_knows() -> None:
    weights = Weights(("add", "sort"), ceiling=0.5)
    weights.update({"add": 0.1, "sort": 0.5})
    assert weights.values["add"] > 0.7
    assert weights.values["sort"] == 0.01


def test_the_learning_rate_warms_up_and_decays() -> None:
    member = Member("m", "specialist", "llama", ("add",), 0, 1000, 1)
    rates = [step_rate(member, step) for step in range(1000)]
    assert rates[0] < rates[25] < rates[60]
    assert rates[60:] == sorted(rates[60:], reverse=True)
    assert rates[-1] < 0.1 * max(rates)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "qwen2"])
def test_every_architecture_builds_and_decodes(architecture: Architecture) -> None:
    member = Member("m", "specialist", architecture, ("add",), 0, 1, 1, hidden=32, intermediate=32, layers=1)
    model = build(member, characters()).eval()
    questions = [[{"role": "user", "content": text}] for text in ("a", "bb", "cc", "a")]
    replies = greedy(model, characters(), questions, 4)
    assert replies[0] == replies[3]
    assert all(1 <= reply.completion_tokens <= 4 for reply in replies)


def test_the_same_seed_gives_the_same_weights() -> None:
    reports: list[str] = []
    first, second = (train(TINY, characters(), reports.append).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_easy_sums_have_a_round_number_and_only_a_specialist_gets_more_of_them(pool: Pool) -> None:
    assert pool.easy["add"]
    assert not any(asked for family, asked in pool.easy.items() if family != "add")
    assert all(any(word.strip("?.").endswith("0") for word in q.text.split()) for q in pool.easy["add"])
    assert Pool(("add",), ("add",), 50, seed=1, easy=False).easy == {"add": []}
