"""A recipe, from its file to trained weights, with real models of the fleet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("transformers")

from demo.fleet.tasks import questions
from offline.distill.evaluate import measure, reply_all
from offline.distill.fuse import fuse, shares
from offline.distill.prepare import prepare
from offline.distill.recipe import Recipe, RecipeError, read_recipe
from offline.distill.samples import read_conversations
from offline.distill.weighing import weigh

MODELS = Path(__file__).resolve().parents[2] / "demo" / "fleet" / "models"


def data(path: Path, count: int = 40) -> Path:
    with path.open("w") as file:
        for family in ("reverse", "add"):
            for number, asked in enumerate(questions(family, "train", count, seed=1)):
                messages = [{"role": "user", "content": asked.text}, {"role": "assistant", "content": asked.answer}]
                line = {"id": f"{family}-{number}", "domain": family, "messages": messages}
                file.write(json.dumps(line) + "\n")
    return path


def recipe(folder: Path, **changes: Any) -> Path:
    data(folder / "train.jsonl")
    stated = {
        "target": {"name": "fused", "model": str(MODELS / "target-llama")},
        "data": {"train": "train.jsonl", "holdout_share": 0.2},
        "output": "out",
        "training": {"steps": 6, "batch": 2, "length": 128, "mix": 0.5, "checkpoint_every": 3},
        "teachers": [
            {
                "name": "letters",
                "kind": "local",
                "licence_allows_training": True,
                "model": str(MODELS / "letters-gpt2"),
            },
            {"name": "calc", "kind": "local", "licence_allows_training": True, "model": str(MODELS / "calc-llama")},
        ],
    } | changes
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(stated))
    return path


def test_each_domain_is_taught_by_who_knows_it(tmp_path: Path) -> None:
    made = read_recipe(recipe(tmp_path))
    prepared = prepare(made)
    selection, weights = weigh(prepared, made, "em")
    assert selection is not None
    assert prepared.teachers == ("letters", "calc")
    by_domain = dict(zip(["add", "reverse"], selection.weights, strict=True))
    assert by_domain["reverse"][0] > 0.95
    assert by_domain["add"][1] > 0.95
    assert set(shares(selection, prepared)) == {"letters", "calc"}
    assert isinstance(weights, np.ndarray)
    assert weights.shape == (len(prepared.samples), 2)
    _, least = weigh(prepared, made, "min_ce")
    assert isinstance(least, np.ndarray)
    assert (least.sum(axis=1) == 1).all()
    _, drawn = weigh(prepared, made, "published")
    assert callable(drawn)
    assert (drawn(0) != drawn(1)).any()
    told: list[str] = []
    _, learned = weigh(prepared, made, "gate", say=told.append)
    assert isinstance(learned, np.ndarray)
    assert "the learned gate is" in told[0]
    np.testing.assert_allclose(learned.sum(axis=1), 1.0)
    held = {" ".join(str(m) for m in one.messages[:-1]) for one in prepared.holdout}
    assert held
    assert len(prepared.samples) + len(prepared.holdout) == 80


def test_a_run_makes_a_model_that_loads_and_is_not_trained_twice(tmp_path: Path) -> None:
    made = read_recipe(recipe(tmp_path))
    prepared = prepare(made)
    run = fuse(made, prepared)
    assert run is not None
    assert run.trained.steps == 6
    assert (run.folder / "model.safetensors").exists()
    assert (run.folder / "tokenizer.json").exists()
    again = fuse(made, prepared)
    assert again is not None
    assert again.trained.resumed_at == 6
    found = measure(run.folder, prepared.holdout, "likelihood")
    assert np.isfinite(found).all()
    assert (found < 0).all()
    assert len(reply_all(run.folder, prepared.holdout[:3], 8)) == 3


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    made = read_recipe(recipe(tmp_path))
    prepared = prepare(made)
    calls = iter([False, False, True])
    assert fuse(made, prepared, stop=lambda: next(calls)) is None
    run = fuse(made, prepared)
    assert run is not None
    assert run.trained.resumed_at == 2


def test_an_adapter_is_trained_instead_of_the_weights(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    made = read_recipe(recipe(tmp_path, lora={"rank": 4}))
    prepared = prepare(made)
    run = fuse(made, prepared)
    assert run is not None
    assert (run.folder / "adapter_model.safetensors").exists()
    assert not (run.folder / "model.safetensors").exists()
    assert np.isfinite(measure(run.folder, prepared.holdout[:4], "likelihood")).all()


def test_the_specialist_answers_exactly_and_the_untrained_target_does_not(tmp_path: Path) -> None:
    asked = [one for one in read_conversations(data(tmp_path / "d.jsonl", 20)) if one.domain == "reverse"]
    assert measure(MODELS / "letters-gpt2", asked, "exact", max_reply_tokens=12).mean() > 0.9
    assert measure(MODELS / "target-llama", asked, "exact", max_reply_tokens=12).mean() < 0.2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"targett": {}}, "targett"),
        ({"training": {"steps": 0}}, "at least 1"),
        ({"teachers": []}, "needs at least one teacher"),
        ({"teachers": [{"name": "a", "kind": "text", "licence_allows_training": False}]}, "does not allow training"),
        ({"teachers": [{"name": "a", "kind": "text"}]}, "licence_allows_training"),
        ({"teachers": [{"name": "a", "kind": "local", "licence_allows_training": True}]}, "names its folder"),
    ],
)
def test_a_wrong_recipe_is_told(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        read_recipe(recipe(tmp_path, **change))


def test_a_target_that_is_none_is_told(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    made = read_recipe(recipe(tmp_path, target={"name": "x", "model": str(empty)}))
    assert isinstance(made, Recipe)
    with pytest.raises(Exception, match=r"tokenizer\.json"):
        prepare(made)
