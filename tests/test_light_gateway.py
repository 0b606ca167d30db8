"""Does the gateway start from the base install alone, without what learning needs?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import ROOT

HEAVY = [
    "torch", "transformers", "sklearn", "pyarrow", "onnxruntime", "sentence_transformers", "matplotlib", "pandas",
    "datasets", "scipy",
]  # fmt: skip

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HEAVY:
            raise ModuleNotFoundError(f"{name} is blocked by the test", name=name)
sys.meta_path.insert(0, Blocked())
"""

START = """
import asyncio, json, sys
from pathlib import Path
from registry.config_file import load_config
from service.app import create_app

async def main():
    app = create_app(load_config(Path(sys.argv[1])))
    messages, sent = asyncio.Queue(), asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    lifespan = asyncio.create_task(app(scope, messages.get, sent.put))
    await messages.put({"type": "lifespan.startup"})
    started = await sent.get()
    assert started["type"] == "lifespan.startup.complete", started
    answers = []
    async def send(message):
        answers.append(message)
    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": "/health",
             "raw_path": b"/health", "query_string": b"", "headers": [], "scheme": "http", "root_path": "",
             "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {}}
    await app(scope, receive, send)
    await messages.put({"type": "lifespan.shutdown"})
    await sent.get()
    await lifespan
    return answers[0]["status"]

status = asyncio.run(main())
print(json.dumps({"status": status, "loaded": sorted({name.split(".")[0] for name in sys.modules} & set(HEAVY))}))
"""

CONFIG = """
version: 1
server: {data_dir: DATA_DIR, port: 0, admin_port: 0}
upstreams: {local: {base_url: "http://127.0.0.1:9/v1"}}
models: {m: {endpoints: [{upstream: local}], ways: [direct, think, thought]}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tokamak.yaml"
    path.write_text(CONFIG.replace("DATA_DIR", str(tmp_path / "data")))
    return path


@pytest.mark.parametrize("prelude", ["", BLOCKED], ids=["installed", "unimportable"])
def test_the_gateway_starts_and_answers_without_what_learning_needs(config: Path, prelude: str) -> None:
    script = f"HEAVY = {HEAVY!r}\n" + prelude + START
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", script, str(config)], capture_output=True, text=True, env=env, timeout=60, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == {"status": 200, "loaded": []}


def test_a_blocked_module_cannot_be_imported() -> None:
    script = f"HEAVY = {HEAVY!r}\n" + BLOCKED + "import onnxruntime"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "blocked by the test" in run.stderr
