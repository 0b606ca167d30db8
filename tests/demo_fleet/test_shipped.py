"""What is shipped: the accuracy matrix, the outcomes and the config agree with the tasks and with each other."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from typing import Any

import pytest

from demo.fleet.config import ACCURACY_FILE, OUTCOMES_FILE, fleet_config, fleet_models, spread_config
from demo.fleet.families import FAMILIES
from demo.fleet.roster import ROSTER
from demo.fleet.tasks import check, mixed
from registry.config import Config

ACCURACY: dict[str, dict[str, float]] = json.loads(ACCURACY_FILE.read_text())["accuracy"]
ROUTED = [name for name, member in ROSTER.items() if member.role != "target"]
SPECIALISTS = [name for name, member in ROSTER.items() if member.role == "specialist"]


def outcomes() -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(OUTCOMES_FILE.read_bytes()).splitlines()]


def test_every_model_has_its_files_and_the_whole_fleet_stays_small() -> None:
    names = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "training.json")
    for member in ROSTER.values():
        assert all((member.folder / name).exists() for name in names), member.name
        assert "assistant" in json.loads((member.folder / "tokenizer_config.json").read_text())["chat_template"]
    size = sum(file.stat().st_size for member in ROSTER.values() for file in member.folder.iterdir())
    assert size < 20_000_000


@pytest.mark.parametrize("name", list(ROSTER))
def test_the_weights_were_made_by_the_recipe_in_the_repository(name: str) -> None:
    member, made = ROSTER[name], json.loads((ROSTER[name].folder / "training.json").read_text())
    recipe = (member.seed, member.steps, member.batch, member.learning_rate, list(member.families))
    assert recipe == tuple(made[key] for key in ("seed", "steps", "batch", "learning_rate", "families"))


@pytest.mark.parametrize("name", SPECIALISTS)
def test_specialists_know_their_own_families_and_no_other(name: str) -> None:
    own = ROSTER[name].families
    assert all(ACCURACY[name][family] >= 0.9 for family in own)
    assert all(ACCURACY[name][family] <= 0.05 for family in FAMILIES if family not in own)


def test_every_family_but_multiplication_has_one_specialist() -> None:
    owned = Counter(family for name in SPECIALISTS for family in ROSTER[name].families)
    assert owned == Counter(family for family in FAMILIES if family != "multiply")


def test_the_generalist_is_mediocre_and_the_target_knows_nothing() -> None:
    [generalist] = [name for name, member in ROSTER.items() if member.role == "generalist"]
    [target] = [name for name, member in ROSTER.items() if member.role == "target"]
    owned = [ACCURACY[generalist][family] for family in FAMILIES if family != "multiply"]
    assert 0.3 <= sum(owned) / len(owned) <= 0.7
    assert all(ACCURACY[target][family] <= 0.05 for family in FAMILIES)


def test_outcomes_are_complete_scored_by_the_checker_and_from_training_questions() -> None:
    asked = {q.text: q for q in mixed("train", 140, seed=77)}
    rows = outcomes()
    assert Counter(row["model"] for row in rows) == Counter(dict.fromkeys(ROUTED, len(asked)))
    assert len({row["query"] for row in rows}) == len(asked) >= 1200
    for row in rows:
        question = asked[row["query"]]
        assert (row["family"], row["split"]) == (question.family, "train")
        assert row["score"] == check(question, row["answer"])
        assert row["prompt_tokens"] > 0
        assert row["completion_tokens"] > 0
        assert row["latency_s"] > 0


def test_the_config_is_valid_and_keeps_the_target_out_of_auto() -> None:
    config = Config.model_validate(fleet_config("http://127.0.0.1:8500/v1/"))
    assert config.upstreams["fleet"].base_url == "http://127.0.0.1:8500/v1"
    assert list(config.models) == list(ROSTER) == list(fleet_models())
    assert config.routes["auto"].models == ROUTED
    assert all(model.prices is not None and model.context_window == 1024 for model in config.models.values())


def test_larger_models_cost_more() -> None:
    models = sorted(fleet_models().values(), key=lambda about: about["parameters"])
    prices = [about["prices"]["prompt_per_1m"] for about in models]
    assert prices == sorted(prices)
    assert prices[0] < prices[-1]


def test_each_model_may_have_a_server_of_its_own() -> None:
    urls = {name: f"http://127.0.0.1:{port}/v1" for port, name in enumerate(fleet_models(), 8510)}
    config = Config.model_validate(spread_config(urls))
    assert {name: upstream.base_url for name, upstream in config.upstreams.items()} == urls
    assert {name: model.endpoints[0].upstream for name, model in config.models.items()} == {name: name for name in urls}
