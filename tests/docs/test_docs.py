"""Every code block of the documentation does what it says, and the tables agree with the program."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from offline.bohdi.settings import Settings
from offline.bohdi.status import refresh_status
from offline.bohdi.tree_work import Place
from registry.bohdi_trees import SHARED
from registry.config_file import parse_config
from service.app import HOT
from service.explanation import response_headers
from service.routing_options import READERS
from tests.bohdi.grown import LARGE, OTHER, TARGET, two_rounds, written
from tests.docs.blocks import PAGES, ROOT, SHOWN, Block, blocks_of, runnable
from tests.gateway.live import fleet

CLOSING = ROOT / "docs" / "keys.md"
"""The page that creates keys: from then on nobody is let in without one."""
EXAMPLE = ROOT / "docs" / "configuration.md"
SAMPLE = ROOT / "demo" / "replay" / "samples" / "mmlu_pro.jsonl.gz"
KEYS = {"OPENAI_API_KEY": "sk-docs"}
QUESTIONS = 60


@dataclass(frozen=True, slots=True)
class World:
    """What the documentation takes for granted: a gateway that has had traffic, a config and a file of answers."""

    folder: Path
    address: str
    admin: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("docs")
    (folder / "tokamak.yaml").write_text(blocks_of(EXAMPLE)[0].code)
    models = {name: {"quality_prior": 0.5, "ways": ["direct", "think", "thought"]} for name in ("small", "large")}
    with fleet(folder / "tokamak-data", models) as live:
        for number in range(QUESTIONS):
            question = f"Question {number}: how many legs have {number} spiders?"
            for name in models:
                answered = live.chat(name, messages=[{"role": "user", "content": question}], user="docs")
                told = {"request_id": answered.headers["x-request-id"], "value": float((number + len(name)) % 2)}
                assert live.post("/v1/feedback", told).status_code == 200
            live.chat("auto", messages=[{"role": "user", "content": question}])
        write_answers(folder / "answers.parquet")
        write_solved(folder / "solved.jsonl")
        (folder / "models").mkdir()
        for name, model in {"target": "target-llama", "letters": "letters-gpt2", "calc": "calc-llama"}.items():
            (folder / "models" / name).symlink_to(ROOT / "demo" / "fleet" / "models" / model)
        write_tree(folder / "tokamak-data")
        addresses = (url.removeprefix("http://") for url in (live.gateway.root, live.gateway.admin_url))
        yield World(folder, *addresses)


def write_answers(path: Path) -> None:
    """A few questions with real answers of real models, as a file that commands read."""
    import pyarrow
    import pyarrow.parquet

    with gzip.open(SAMPLE, "rb") as lines:
        rows = [orjson.loads(line) for line, _ in zip(lines, range(400), strict=False)]
    rows = [row for row in rows if isinstance(row, dict) and "query" in row and "model" in row]
    columns = ("query", "model", "score", "response", "task")
    pyarrow.parquet.write_table(pyarrow.table({c: [row.get(c) for row in rows] for c in columns}), path)


def write_solved(path: Path) -> None:
    """Short questions with the real answers of the fleet's models."""
    with gzip.open(ROOT / "demo" / "fleet" / "outcomes.jsonl.gz", "rb") as lines:
        rows = [orjson.loads(line) for line in lines.readlines()[::7]]
    kept = [{"task": row["family"], "response": row["answer"]} | row for row in rows]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in kept))


def write_tree(data_dir: Path) -> None:
    """A knowledge tree that has been asked about."""
    place = Place(data_dir, SHARED)
    place.keep_settings(Settings(target=TARGET, sources=(LARGE, OTHER)))
    written(place.folder, two_rounds())
    refresh_status(data_dir, SHARED)


def run(command: list[str], world: World, block: Block) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = {
        **os.environ, **KEYS, "PATH": path, "TOKAMAK_DATA_DIR": str(world.folder / "tokamak-data"),
        "TOKAMAK_ADMIN_URL": f"http://{world.admin}",
    }  # fmt: skip
    done = subprocess.run(
        command, cwd=world.folder, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{block.place}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("page", [p for p in PAGES if p != CLOSING], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_runs(page: Path, world: World) -> None:
    assert run_page(page, world) == len(blocks_of(page))


def test_the_page_that_closes_the_endpoint_has_one_of_its_own(tmp_path: Path) -> None:
    with fleet(tmp_path / "tokamak-data", {name: {"quality_prior": 0.5} for name in ("small", "large")}) as live:
        addresses = (url.removeprefix("http://") for url in (live.gateway.root, live.gateway.admin_url))
        assert run_page(CLOSING, World(tmp_path, *addresses)) >= 3
        assert live.chat("small").status_code == 401


def run_page(page: Path, world: World) -> int:
    """Run the blocks of a page; python blocks go on where the one before ended, as a reader would. Returns how many."""
    program, ran = "", 0
    for block in blocks_of(page):
        ran += 1
        if block.language == "python":
            program += block.code.replace("127.0.0.1:8400", world.address) + "\n"
            run([sys.executable, "-c", program], world, block)
        elif block.language in ("bash", "sh"):
            run(["bash", "-euo", "pipefail", "-c", runnable(block.code, world.address, world.admin)], world, block)
        elif block.language == "yaml":
            check_config(block)
        elif block.language == "json":
            json.loads(block.code)
        else:
            assert block.language in SHOWN, f"{block.place}: nobody knows how to run {block.language!r}"
    return ran


def check_config(block: Block) -> None:
    """A whole config, or a part of one put into a small one that has what the part needs."""
    code = block.code
    if "version:" not in code:
        upstreams = "upstreams: {local: {base_url: 'http://127.0.0.1:8000/v1'}}\n"
        prices = "prices: {prompt_per_1m: 1, completion_per_1m: 1}"
        models = "" if "models:" in code else f"models: {{m: {{endpoints: [{{upstream: local}}], {prices}}}}}\n"
        code = f"version: 1\n{'' if 'upstreams:' in code else upstreams}{models}{code}"
    parse_config(code, block.place, KEYS)


def test_the_tables_of_the_configuration_page_are_those_of_the_schema() -> None:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.PAGE.read_text() == generate.page_with(generate.tables()), "run `python docs/generate.py`"
    assert generate.BOHDI_PAGE.read_text() == generate.bohdi_page(), "run `python docs/generate.py`"


def test_every_endpoint_option_and_header_is_described() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    for path in set(HOT) | {"/v1/models", "/v1/route", "/v1/feedback", "/health", "/ready", "/metrics"}:
        assert f"{path}`" in page, path
    for key in READERS:
        assert f"`{key}`" in page, key
    source = Path(response_headers.__code__.co_filename).read_text()
    headers = {part.split('"')[0] for part in source.split('b"') if part.startswith("x-tokamak-")}
    assert len(headers) == 11
    for header in headers:
        assert f"`{header}`" in page, header


def test_every_link_between_pages_leads_somewhere() -> None:
    import re

    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
