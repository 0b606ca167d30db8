"""Training on packed conversations: nothing leaks between them, and a kill changes nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from offline.distill import checkpoints  # noqa: E402
from offline.distill.checkpoints import CheckpointError  # noqa: E402
from offline.distill.packing import batch, pack  # noqa: E402
from offline.distill.samples import DataError, Sample, read_conversations  # noqa: E402
from offline.distill.signals import AlignedRows  # noqa: E402
from offline.distill.training import (  # noqa: E402
    TrainingSettings,
    TrainingStopped,
    attention,
    blocks_of,
    read_curve,
    train,
)
from registry.atomic_files import LEFTOVER  # noqa: E402

VOCABULARY = 24
LINE = '{"id": "a", "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}\n'


def model(architecture: str = "llama", seed: int = 0) -> Any:
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"vocab_size": VOCABULARY, "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}
    if architecture == "gpt2":
        return transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_positions=64, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0,
                                    attn_pdrop=0.0, **shape)
        )  # fmt: skip
    wide = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    if architecture == "gpt_neox":
        return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(max_position_embeddings=64, **wide, **shape))
    kind = {"llama": "Llama", "qwen2": "Qwen2"}[architecture]
    config = getattr(transformers, f"{kind}Config")(num_key_value_heads=2, max_position_embeddings=64, **wide, **shape)
    return getattr(transformers, f"{kind}ForCausalLM")(config)


def samples(count: int = 12, sources: int = 0) -> list[Sample]:
    rng = np.random.default_rng(5)
    made = []
    for index in range(count):
        prompt = rng.integers(2, VOCABULARY, rng.integers(2, 6)).astype(np.int32)
        reply = np.append(prompt[::-1], 1).astype(np.int32)
        rows = AlignedRows(
            reply[:, None].copy(), np.full((len(reply), 1), 0.9, np.float32), np.full(len(reply), 0.1, np.float32),
            np.ones(len(reply), np.bool_), np.full(len(reply), np.log(0.9), np.float32),
        )  # fmt: skip
        made.append(Sample(f"s{index}", "reverse", prompt, reply, signals=(rows,) * sources))
    return made


def settings(**changes: Any) -> TrainingSettings:
    return TrainingSettings(**({"steps": 6, "batch": 2, "length": 24, "checkpoint_every": 2, "warmup": 2} | changes))


def even(count: int, sources: int = 0) -> np.ndarray:
    return np.full((count, sources), 1.0 / max(sources, 1))


def logits_of(net: Any, made: Any) -> Any:
    with torch.no_grad():
        out = net(input_ids=made.ids, position_ids=made.positions, attention_mask=attention(made.mask, net))
    return out.logits.reshape(-1, VOCABULARY)[made.at]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2", "gpt_neox"])
def test_packed_conversations_do_not_see_each_other(architecture: str) -> None:
    data, net = samples(5), model(architecture).eval()
    together = batch([[2, 0, 1], [3, 4]], data, even(5), 0)
    alone = [batch([[index]], data, even(5), 0) for index in (2, 0, 1, 3, 4)]
    apart = torch.cat([logits_of(net, made) for made in alone])
    torch.testing.assert_close(logits_of(net, together), apart, atol=2e-5, rtol=1e-4)
    assert together.labels.tolist() == [token for made in alone for token in made.labels.tolist()]


def test_packing_fills_blocks_and_loses_nothing() -> None:
    lengths = [7, 3, 9, 1, 5, 5, 2]
    blocks = pack(lengths, 10)
    assert sorted(index for block in blocks for index in block) == list(range(7))
    assert all(sum(lengths[index] for index in block) <= 10 for block in blocks)
    assert len(blocks) == 4
    with pytest.raises(DataError, match="at most 6 tokens, number 2 has 9"):
        pack(lengths, 6)


def test_every_epoch_visits_every_block_once_in_an_order_of_its_own() -> None:
    wanted = settings(batch=3)
    seen = [block for step in range(4) for block in blocks_of(step, 6, wanted)]
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))
    assert seen[:6] != seen[6:]


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    data = samples(sources=1)
    wanted = settings(mix=0.5)
    whole, cut = model(), model()
    train(whole, data, even(len(data), 1), wanted, tmp_path / "whole", recipe="r", pad=0)
    calls = iter([False, False, False, True])
    stopped = train(
        cut, data, even(len(data), 1), wanted, tmp_path / "cut", recipe="r", pad=0, stop=lambda: next(calls)
    )
    assert stopped.steps == 3
    fresh = model(seed=99)
    done = train(fresh, data, even(len(data), 1), wanted, tmp_path / "cut", recipe="r", pad=0)
    assert (done.resumed_at, done.steps) == (3, 6)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(fresh.state_dict()[name], tensor, atol=1e-6, rtol=1e-5)
    assert [point.step for point in read_curve(tmp_path / "cut")] == [1, 2, 3, 4, 5, 6]


def test_it_learns(tmp_path: Path) -> None:
    data = samples(sources=1)
    net = model()
    train(
        net, data, even(len(data), 1), settings(steps=80, batch=4, learning_rate=1e-2, mix=0.3, mix_warmup=5), tmp_path,
        recipe="r", pad=0,
    )  # fmt: skip
    curve = list(read_curve(tmp_path))
    assert curve[-1].clm < 0.6 * curve[0].clm
    assert curve[-1].fused > 0
    assert len(checkpoints.steps(tmp_path)) == checkpoints.KEPT


def test_a_loss_that_is_not_finite_stops_and_names_the_samples(tmp_path: Path) -> None:
    data = samples(4)
    net = model()
    train(net, data, even(4), settings(steps=2), tmp_path, recipe="r", pad=0)
    with torch.no_grad():
        net.model.embed_tokens.weight[:] = float("nan")
    broken = dict(net.named_parameters())
    state = checkpoints.State(layout=checkpoints.LAYOUT, step=3, recipe="r")
    found = checkpoints.newest(tmp_path, "r")
    assert found is not None
    checkpoints.write(tmp_path, state, broken, found[2])
    with pytest.raises(TrainingStopped, match=r"loss is nan at step 4; the samples were s\d"):
        train(model(), data, even(4), settings(steps=8), tmp_path, recipe="r", pad=0)
    assert checkpoints.steps(tmp_path) == [2, 3]


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    data = samples(4)
    train(model(), data, even(4), settings(steps=1), tmp_path, recipe="one", pad=0)
    with pytest.raises(CheckpointError, match="belongs to another recipe"):
        train(model(), data, even(4), settings(), tmp_path, recipe="two", pad=0)
    path = tmp_path / checkpoints.FOLDER / "step-00000001" / "state.json"
    path.write_text(path.read_text().replace('"layout":1', '"layout":7'))
    with pytest.raises(CheckpointError, match="layout 7, this version reads 1"):
        checkpoints.newest(tmp_path, "one")


def test_a_half_written_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    data = samples(4)
    train(model(), data, even(4), settings(steps=2), tmp_path, recipe="r", pad=0)
    left = tmp_path / checkpoints.FOLDER / f"{LEFTOVER}abc"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    assert checkpoints.steps(tmp_path) == [2]
    assert not left.exists()


def test_a_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = samples(4)
    train(model(), data, even(4), settings(steps=2), tmp_path, recipe="r", pad=0)

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_synced", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*make room"):
        train(model(), data, even(4), settings(steps=4), tmp_path, recipe="r", pad=0)
    monkeypatch.undo()
    assert checkpoints.steps(tmp_path) == [2]
    assert train(model(), data, even(4), settings(steps=4), tmp_path, recipe="r", pad=0).resumed_at == 2


def test_samples_count_by_their_weight(tmp_path: Path) -> None:
    data = samples(2)
    heavy = [dataclasses.replace(data[0], weight=1000.0), data[1]]
    light = model()
    train(light, heavy, even(2), settings(steps=1, batch=1), tmp_path, recipe="r", pad=0)
    made = batch([[0, 1]], heavy, even(2), 0)
    assert made.counts.max() == 1000.0
    assert next(read_curve(tmp_path)).clm > 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no conversation"),
        ('{"id": "a", "messages": []}\n', "line 1"),
        (LINE.replace("assistant", "user"), "assistant"),
        (LINE * 2, "ids must differ"),
        ("nonsense\n", "expected a conversation"),
    ],
)
def test_a_data_set_that_is_none_is_told(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=said):
        read_conversations(path)


def test_a_missing_data_set_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no data set"):
        read_conversations(tmp_path / "absent.jsonl")


def test_nothing_to_train_on_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no samples"):
        train(model(), [], even(0), settings(), tmp_path, recipe="r", pad=0)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"mix": 2.0}, {"learning_rate": 0.0}, {"divergence": "uld", "temperature": 2.0}]
)
def test_wrong_settings_are_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        settings(**wrong)


def test_two_trainings_on_one_folder_are_told_apart(tmp_path: Path) -> None:
    data = samples(4)

    def second() -> bool:
        with pytest.raises(TrainingStopped, match="another training writes to"):
            train(model(), data, even(4), settings(), tmp_path, recipe="r", pad=0)
        return False

    assert train(model(), data, even(4), settings(steps=1), tmp_path, recipe="r", pad=0, stop=second).steps == 1


def test_weights_may_differ_at_every_step(tmp_path: Path) -> None:
    data = samples(4, sources=2)
    asked: list[int] = []

    def drawn(step: int) -> np.ndarray:
        asked.append(step)
        return even(4, 2)

    train(model(), data, drawn, settings(mix=0.5), tmp_path, recipe="r", pad=0)
    assert asked == list(range(6))
