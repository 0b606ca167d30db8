"""One light server with two models for all tests that need one. They are skipped where torch is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import httpx
import openai
import pytest

from demo.fleet.launch import running_server
from demo.fleet.roster import ROSTER

CLERK, ORDER = "clerk-neox", "order-qwen"


@pytest.fixture(scope="session")
def fleet_url() -> Iterator[str]:
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        pytest.skip("the demo fleet needs torch and transformers; install the extra `demo`")
    missing = [name for name in (CLERK, ORDER) if not (ROSTER[name].folder / "model.safetensors").exists()]
    if missing:
        pytest.fail(
            f"the weights of {missing} are part of the repository and should be in {ROSTER[CLERK].folder.parent}"
        )
    with running_server(models=(CLERK, ORDER)) as url:
        yield url


@pytest.fixture
def client(fleet_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=fleet_url, api_key="none", max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture
def raw(fleet_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=fleet_url, timeout=60) as made:
        yield made
