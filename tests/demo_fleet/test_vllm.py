"""A real vLLM server serves a checkpoint of the fleet. Runs only where `make vllm` has been run."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from demo.fleet.families import FAMILIES
from demo.fleet.roster import ROSTER
from demo.fleet.tasks import check, questions
from demo.fleet.vllm import command, running_vllm, vllm_python

installed = pytest.mark.skipif(vllm_python() is None, reason="no vLLM environment; `make vllm` builds one")


def test_no_environment_is_reported_as_none(tmp_path: Path) -> None:
    assert vllm_python(tmp_path) is None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    assert vllm_python(tmp_path) is None
    (tmp_path / ".ready").touch()
    assert vllm_python(tmp_path) == tmp_path / "bin" / "python"


def test_the_command_limits_memory_and_names_the_model() -> None:
    words = command(Path("python"), ROSTER["order-qwen"].folder, "order-qwen", 9000)
    assert words[words.index("--served-model-name") + 1] == "order-qwen"
    assert "--kv-cache-memory-bytes" in words


@installed
@pytest.mark.fleet
@pytest.mark.slow
def test_vllm_answers_like_the_light_server() -> None:
    with running_vllm(["clerk-neox"]) as urls, openai.OpenAI(base_url=urls["clerk-neox"], api_key="none") as client:
        assert [model.id for model in client.models.list()] == ["clerk-neox"]
        asked = [
            q for family in FAMILIES if family in ROSTER["clerk-neox"].families for q in questions(family, "test", 10)
        ]
        right = 0.0
        for one in asked:
            answer = client.chat.completions.create(
                model="clerk-neox", messages=[{"role": "user", "content": one.text}]
            )
            right += check(one, answer.choices[0].message.content or "")
        assert right >= len(asked) - 1
