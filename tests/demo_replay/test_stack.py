"""The processes of the demo: the real replay server and the real gateway, started, asked and stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from demo.replay.config import replay_config
from demo.run import Exit, run
from demo.stack import StackError, gateway, process, replay_upstream


def test_a_process_that_ends_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('cannot read the pool')"]
    with (
        pytest.raises(StackError, match="cannot read the pool"),
        process("broken", command, "http://127.0.0.1:1/health", tmp_path, 5.0),
    ):
        pass


def test_a_terminated_demo_leaves_no_process_behind(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from demo.stack import replay_upstream, stop_children_when_terminated
stop_children_when_terminated()
with replay_upstream("llmrouter14", Path({str(tmp_path)!r})) as url:
    print(url, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        url = demo.stdout.readline().strip()
        assert httpx.get(f"{url}/models").status_code == 200
        demo.terminate()
        assert demo.wait(20) == 128 + signal.SIGTERM
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/models")


def test_replay_answers_through_the_gateway(tmp_path: Path) -> None:
    with (
        replay_upstream("mmlu_pro", tmp_path) as upstream,
        gateway(replay_config(upstream, "mmlu_pro"), tmp_path) as stack,
    ):
        models = httpx.get(f"{upstream}/models").json()["data"]
        assert len(models) == 12
        listed = {model["id"] for model in httpx.get(f"{stack.base_url}/models").json()["data"]}
        assert {"auto", "auto:best", "explore", "mathstral-7B"} <= listed
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{upstream}/models")


def test_unknown_pool_fails_before_anything_starts(tmp_path: Path) -> None:
    out = StringIO()
    assert run("replay", pool="nothing", out_dir=tmp_path, console=Console(file=out, width=200)) == Exit.FAILED
    assert "no bundled sample 'nothing'" in out.getvalue()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_whole_demo_on_a_part_of_the_pool(tmp_path: Path) -> None:
    """Everything of the demo on 400 queries: too few to expect that learning is proven, enough to run every phase."""
    out = StringIO()
    console = Console(file=out, width=200)
    code = run("replay", queries=400, asks=2, out_dir=tmp_path, console=console)
    text = out.getvalue()
    assert code in (Exit.HELPED, Exit.DID_NOT_HELP), text
    for expected in ("auto:best before", "auto:best after", "oracle", "random routing", "router cluster@"):
        assert expected in text
    folder = tmp_path / "replay-llmrouter14"
    assert (folder / "findings.json").exists()
    assert (code == Exit.HELPED) == ("Learning helped" in text)
