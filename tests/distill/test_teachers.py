"""Real small models asked about real replies, the store of what they said, and vLLM's answers read over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from offline.distill.alignment import align  # noqa: E402
from offline.distill.samples import Conversation  # noqa: E402
from offline.distill.signal_store import SignalStore, SignalStoreError, score_all  # noqa: E402
from offline.distill.signals import TeacherSignal  # noqa: E402
from offline.distill.teachers import ChatFormat, LocalTeacher, TeacherError, VllmTeacher  # noqa: E402
from offline.distill.vocabulary import map_vocabulary  # noqa: E402
from tests.upstream.script import JSON, whole  # noqa: E402
from tests.upstream.server import ScriptedUpstream  # noqa: E402

MODELS = Path(__file__).resolve().parents[2] / "demo" / "fleet" / "models"


def conversation(question: str, reply: str, number: int = 0) -> Conversation:
    return Conversation(
        id=f"c{number}",
        messages=[{"role": "user", "content": question}, {"role": "assistant", "content": reply}],
        domain="reverse",
    )


ASKED = [conversation("Reverse nrlpw.", "wplrn", 1), conversation("Reverse hnosi.", "isonh", 2)]


@pytest.fixture(scope="module")
def letters() -> LocalTeacher:
    return LocalTeacher("letters", MODELS / "letters-gpt2", top=16)


def test_a_local_teacher_says_what_its_model_computes(letters: LocalTeacher) -> None:
    signals = letters.score(ASKED)
    for said, asked in zip(signals, ASKED, strict=True):
        assert isinstance(said, TeacherSignal)
        made = letters.format.prompted(asked)
        with torch.no_grad():
            ids = torch.tensor([[*made.prompt, *made.reply.token_ids.tolist()]])
            log = letters.model(ids).logits.log_softmax(-1)[0, len(made.prompt) - 1 : -1]
        gold = log[torch.arange(len(log)), torch.tensor(said.token_ids).long()]
        np.testing.assert_allclose(said.gold_logprob, gold.numpy(), atol=1e-4)
        total = np.exp(said.top_logprobs.astype(np.float64)).sum(axis=1) + np.exp(said.tail_logprob.astype(np.float64))
        np.testing.assert_allclose(total, 1.0, atol=2e-3)
        assert said.bits_per_byte() < 0.5


def test_the_specialist_finds_the_right_reply_likelier_than_a_wrong_one(letters: LocalTeacher) -> None:
    right, wrong = letters.score([ASKED[0], conversation("Reverse nrlpw.", "nrlpw", 3)])
    assert isinstance(right, TeacherSignal)
    assert isinstance(wrong, TeacherSignal)
    assert right.bits_per_byte() + 1 < wrong.bits_per_byte()


def test_what_one_fleet_model_says_is_read_in_the_tokens_of_another(letters: LocalTeacher) -> None:
    target = ChatFormat(MODELS / "order-qwen")
    said = letters.score(ASKED)[0]
    assert isinstance(said, TeacherSignal)
    reply = target.prompted(ASKED[0]).reply
    rows = align(reply, said, map_vocabulary(letters.tokens, target.tokens))
    assert rows.valid.all()
    np.testing.assert_allclose(rows.gold_logprob.sum(), said.gold_logprob.sum(), atol=0.05)


def test_a_conversation_longer_than_the_context_is_an_error_of_its_own(letters: LocalTeacher) -> None:
    made = letters.score([conversation("Reverse " + "abc " * 400, "x", 9), ASKED[0]])
    assert isinstance(made[0], TeacherError)
    assert "expected at most 1024 tokens" in str(made[0])
    assert isinstance(made[1], TeacherSignal)


def test_scores_are_kept_and_nothing_is_scored_twice(letters: LocalTeacher, tmp_path: Path) -> None:
    store = SignalStore(tmp_path, letters.model_hash, letters.tokens.digest)
    long = conversation("Reverse " + "abc " * 400, "x", 9)
    assert list(score_all(letters, [*ASKED, long], store)) == ["c9"]
    again = SignalStore(tmp_path, letters.model_hash, letters.tokens.digest)
    assert len(again) == 2

    class Silent(LocalTeacher):
        def score(self, conversations: Any) -> Any:
            raise AssertionError("asked again")

    assert score_all(Silent("letters", MODELS / "letters-gpt2"), ASKED, again) == {}
    fresh = letters.score([ASKED[0]])[0]
    assert isinstance(fresh, TeacherSignal)
    kept = again.get(fresh.text_hash)
    assert kept is not None
    for name in ("token_ids", "byte_spans", "top_ids", "known"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(fresh, name))
    np.testing.assert_allclose(kept.gold_logprob, fresh.gold_logprob, atol=1e-4)
    assert kept.capability == "logits"


def test_a_store_costs_few_bytes_for_a_token(letters: LocalTeacher, tmp_path: Path) -> None:
    teacher = LocalTeacher("letters", MODELS / "letters-gpt2", top=32)
    store = SignalStore(tmp_path, teacher.model_hash, teacher.tokens.digest)
    score_all(teacher, [conversation(f"Reverse {'ab' * n}.", "ba" * n * 8, n) for n in range(1, 60)], store)
    assert store.bytes_per_token() < 150


def test_a_shard_that_was_cut_off_is_not_read_and_a_broken_one_is_named(letters: LocalTeacher, tmp_path: Path) -> None:
    store = SignalStore(tmp_path, letters.model_hash, letters.tokens.digest)
    score_all(letters, ASKED, store)
    (store.folder / "cut.safetensors").write_bytes(b"half")
    assert len(SignalStore(tmp_path, letters.model_hash, letters.tokens.digest)) == 2
    for path in store.folder.glob("*.safetensors"):
        path.write_bytes(b"broken")
    broken = SignalStore(tmp_path, letters.model_hash, letters.tokens.digest)
    text = next(iter(broken._where))
    with pytest.raises(SignalStoreError, match="scored again"):
        broken.get(text)


def test_a_folder_without_a_chat_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"tokenizer\.json"):
        ChatFormat(tmp_path)


def vllm_answer(ids: list[int], gold: float = -0.5) -> dict[str, Any]:
    rows: list[Any] = [None]
    for place, index in enumerate(ids[1:], 1):
        rows.append({str(index): {"logprob": gold, "rank": 1}, str((index + place) % 90 + 3): {"logprob": -2.0}})
    return {"choices": [{"text": "", "prompt_logprobs": rows}]}


def test_vllm_is_asked_in_tokens_and_its_logprobs_are_of_the_reply() -> None:
    chat = ChatFormat(MODELS / "letters-gpt2")
    made = chat.prompted(ASKED[0])
    ids = [*made.prompt, *made.reply.token_ids.tolist()]
    with ScriptedUpstream(default=lambda request: whole(200, orjson.dumps(vllm_answer(ids)), JSON)) as server:
        teacher = VllmTeacher("letters", server.url, "letters", MODELS / "letters-gpt2", top=4)
        said = teacher.score([ASKED[0]])[0]
        assert server.last.json["prompt"] == ids
        assert server.last.json["prompt_logprobs"] == 4
    assert isinstance(said, TeacherSignal)
    np.testing.assert_allclose(said.gold_logprob, -0.5)
    assert said.known.all()
    assert (said.top_ids[:, 0] == said.token_ids).all()
    assert said.capability == "top_logprobs"


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, {"error": {"message": "no such model"}}, "answered 404"),
        (200, {"choices": [{"text": "x"}]}, "use it as a teacher of text alone"),
        (200, {"choices": [{"text": "x", "prompt_logprobs": None}]}, "use it as a teacher of text alone"),
    ],
)
def test_a_server_without_logprobs_is_told(status: int, body: Any, said: str) -> None:
    with ScriptedUpstream(default=lambda request: whole(status, orjson.dumps(body), JSON)) as server:
        made = VllmTeacher("x", server.url, "x", MODELS / "letters-gpt2").score([ASKED[0]])[0]
    assert isinstance(made, TeacherError)
    assert said in str(made)


def test_a_server_that_is_away_is_told() -> None:
    made = VllmTeacher("x", "http://127.0.0.1:9", "x", MODELS / "letters-gpt2", timeout_s=2.0).score([ASKED[0]])[0]
    assert isinstance(made, TeacherError)
    assert "cannot be reached" in str(made)
