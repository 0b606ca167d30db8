from __future__ import annotations

import asyncio
import gzip
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from encoders.catalogue import load_encoder
from offline.commands import deploy_command, evaluate_command, train_command
from offline.routing.evaluate import Evaluation, evaluate
from offline.routing.train_router import train
from registry.artifacts import Artifacts
from routers.catalogue import KIND, load_router
from routers.protocol import TrainingError
from routers.rows import subset
from tests.offline_routers.interactions import interaction, score, written
from tests.routers.worlds import masked, world

app = typer.Typer()
for name, command in (("train", train_command), ("evaluate", evaluate_command), ("deploy", deploy_command)):
    app.command(name)(command)


def test_training_publishes_a_router_with_the_evidence_of_a_held_out_part(tmp_path: Path) -> None:
    store, outcomes = Artifacts(tmp_path), world(rows=600, tasks=True)
    manifest = train(outcomes, "cluster", 3, artifacts=store, deploy=True, source={"file": "x"})
    assert store.deployed(KIND) == manifest.version
    router = load_router(store.load(KIND, manifest.version), outcomes.encoder)
    assert router.arms == outcomes.arms
    evidence = msgspec.convert(manifest.evidence["evaluation"], Evaluation)
    assert manifest.evidence["source"] == {"file": "x"}
    assert manifest.evidence["split"] == {"held_out_share": 0.2, "by": "content hash", "seed": 3}
    assert 80 < evidence.held_out < 160
    single, cluster = evidence.routers
    assert (single.router, cluster.router) == ("best single", "cluster")
    chosen = cluster.scenarios["performance"]
    assert chosen.gain is not None
    assert chosen.gain.low > 0.2
    assert evidence.random is not None
    assert evidence.oracle is not None
    assert evidence.best_single is not None
    assert evidence.random < evidence.best_single < (chosen.quality or 0) < evidence.oracle
    assert cluster.calibration_error is not None
    assert cluster.calibration_error < 0.1
    assert set(cluster.tasks or {}) == {f"topic-{i}" for i in range(4)}
    cheap, best = cluster.scenarios["cost"].cost_usd, chosen.cost_usd
    assert cheap is not None
    assert best is not None
    assert cheap < best


def test_the_same_data_and_seed_give_the_same_version_whatever_the_order(tmp_path: Path) -> None:
    store, outcomes = Artifacts(tmp_path), world()
    first = train(outcomes, artifacts=store)
    shuffled = subset(outcomes, np.random.default_rng(0).permutation(400))
    assert train(shuffled, artifacts=store).version == first.version
    assert train(outcomes, seed=1, artifacts=store).version != first.version
    assert store.deployed(KIND) is None


def test_a_log_of_one_answer_per_query_is_judged_by_what_it_observed() -> None:
    full = evaluate(world(rows=1500), ("cluster",))
    logged = evaluate(masked(world(rows=1500)), ("cluster",))
    chosen, truth = logged.routers[1].scenarios["performance"], full.routers[1].scenarios["performance"]
    assert 0.05 < chosen.coverage < 0.9
    assert chosen.quality == pytest.approx(truth.quality, abs=0.1)
    assert logged.oracle is None
    assert full.oracle is not None
    assert logged.random == pytest.approx(full.random, abs=0.05)


def test_too_few_outcomes_are_refused_with_the_number_that_is_needed(tmp_path: Path) -> None:
    few = subset(world(), np.arange(30))
    with pytest.raises(TrainingError, match="30 queries have a scored answer, at least 50 are needed"):
        train(few, artifacts=Artifacts(tmp_path))
    outcomes = world()
    lonely = outcomes.quality.copy()
    lonely[:, 1:] = np.nan
    with pytest.raises(TrainingError, match=r"1 arms have .* at least 2 are needed .*exploration"):
        train(replace(outcomes, quality=lonely), artifacts=Artifacts(tmp_path))
    with pytest.raises(TrainingError, match=r"no router is called oracle; there are .*cluster"):
        train(outcomes, "oracle", artifacts=Artifacts(tmp_path))
    assert Artifacts(tmp_path).versions(KIND) == []


def answers() -> list[dict[str, Any]]:
    """Sums, at which `calc` is good, and capitals, at which `book` is."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(120):
        sums = i % 2 == 0
        query = f"what is {i} plus {i + 1}" if sums else f"name the capital city of country {i}"
        for model, good in (("calc", sums), ("book", not sums)):
            right = float(rng.random() < (0.95 if good else 0.1))
            rows.append({"query": query, "model": model, "score": right, "task": "sums" if sums else "facts"})
    return rows


def file_of(rows: list[dict[str, Any]], folder: Path) -> Path:
    path = folder / "answers.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in rows).encode()))
    return path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_the_commands_learn_from_a_file_deploy_and_roll_back(tmp_path: Path) -> None:
    data, folder = str(file_of(answers(), tmp_path)), str(tmp_path / "data")
    first = run("train", "--data", data, "--data-dir", folder, "--deploy", "--json")
    assert first.exit_code == 0, first.output
    manifest = json.loads(first.stdout)
    assert manifest["evidence"]["evaluation"]["routers"][1]["scenarios"]["performance"]["quality"] > 0.8
    second = run("train", "--data", data, "--data-dir", folder, "--router", "knn", "--deploy")
    assert second.exit_code == 0, second.output
    assert "best single" in second.stdout
    version = second.stdout.split()[-3]
    assert f"* {version}" in run("deploy", "--data-dir", folder).stdout
    assert run("deploy", "--roll-back", "--data-dir", folder).stdout == f"{manifest['version']} now serves\n"
    assert run("deploy", version, "--data-dir", folder).exit_code == 0
    assert Artifacts(tmp_path / "data" / "artifacts").deployed(KIND) == version
    table = run("evaluate", "--data", data)
    assert table.exit_code == 0
    assert all(word in table.stdout for word in ("cluster", "knn", "random", "oracle", "best single"))
    assert json.loads(run("evaluate", "--data", data, "--router", "knn", "--json").stdout)["queries"] == 120


def test_the_commands_learn_from_the_log_in_the_data_folder(tmp_path: Path) -> None:
    encoder, records = load_encoder("static"), []
    for number, row in enumerate(answers()):
        vector = encoder.encode_one(row["query"]).astype("<f4").tobytes()
        asked = interaction(number, row["model"], row["query"], encoder=encoder.hash, vector=vector)
        records += [asked, score(number, row["score"])]
    records.append(interaction(9999, "calc", "never scored"))

    async def write() -> None:
        await (await written(tmp_path, records)).close()

    asyncio.run(write())
    result = run("train", "--data-dir", str(tmp_path), "--deploy", "--json")
    assert result.exit_code == 0, result.output
    evidence = json.loads(result.stdout)["evidence"]
    assert evidence["source"]["log"]["used"] == 240
    assert evidence["source"]["log"]["unscored"] == 1
    assert evidence["evaluation"]["routers"][1]["scenarios"]["performance"]["gain"][0] > 0.2


def test_mistakes_are_told_in_one_line_with_exit_code_two(tmp_path: Path) -> None:
    folder = str(tmp_path)
    few = str(file_of(answers()[:20], tmp_path))
    for arguments, message in (
        (("train", "--data-dir", folder), "there is no log"),
        (("train", "--data", few, "--data-dir", folder), "at least 50 are needed"),
        (("train", "--data", few, "--log", "sqlite:///x", "--data-dir", folder), "not both"),
        (("evaluate", "--data", few, "--encoder", "nothing"), "no encoder is called"),
        (("evaluate", "--data", few, "--router", "oracle"), "no router is called oracle"),
        (("deploy", "cluster@00000000", "--data-dir", folder), "no router cluster@00000000"),
        (("deploy", "--roll-back", "--data-dir", folder), "nothing to roll back"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert message in result.stderr
        assert result.stderr.count("\n") == 1


def test_a_version_that_cannot_serve_is_not_deployed(tmp_path: Path) -> None:
    data = str(file_of(answers(), tmp_path))
    serving = run("train", "--data", data, "--data-dir", str(tmp_path), "--router", "cluster", "--deploy", "--json")
    store = Artifacts(tmp_path / "artifacts")
    good = store.load(KIND, json.loads(serving.stdout)["version"])
    for changes, told in (
        ({"encoder": "0123456789abcdef"}, "learned from vectors of encoder 0123456789abcdef, the gateway encodes with"),
        ({"feature_set": "fedcba9876543210"}, "learned from feature blocks fedcba9876543210"),
    ):
        unfit = store.publish(KIND, "cluster", good.arrays, good.manifest.meta | changes).version
        refused = run("deploy", unfit, "--data-dir", str(tmp_path))
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert told in refused.stderr
    assert run("deploy", unfit, "--data-dir", str(tmp_path), "--encoder", "static").exit_code == 2
    assert store.deployed(KIND) == good.manifest.version
    for version in (unfit, store.publish(KIND, "cluster", good.arrays, good.manifest.meta, {"later": True}).version):
        store.deploy(KIND, version)
    back = run("deploy", "--roll-back", "--data-dir", str(tmp_path))
    assert (back.exit_code, back.stdout) == (0, f"{good.manifest.version} now serves\n")
    assert f"passed over: {unfit}" in back.stderr


def test_what_is_not_installed_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.tree", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    data = file_of(answers(), tmp_path)
    refused = run("train", "--data", str(data), "--router", "ensemble", "--data-dir", str(tmp_path))
    assert refused.exit_code == 2
    assert "sklearn" in refused.stderr
    assert "pip install 'tokamak[learn]'" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
