"""`tokamak distill` from a recipe to a verdict, with real models of the fleet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.distill.test_fuse import recipe
from tokamak import mount_groups


def run(*arguments: str) -> tuple[int, str, str]:
    app = typer.Typer()
    app.callback()(lambda: None)
    mount_groups(app, "distill")
    result = CliRunner().invoke(app, ["distill", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_a_dry_run_says_what_it_takes_and_does_nothing(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    code, out, _ = run(str(path), "--dry-run")
    assert code == 0
    assert "conversations of" in out
    assert "memory: about" in out
    assert "cost: 0.00 USD" in out
    assert not (tmp_path / "out").exists()
    code, out, _ = run(str(path), "--dry-run", "--json")
    assert json.loads(out)["parameters"] > 100_000


def test_a_whole_distillation_ends_in_a_verdict_and_a_card(tmp_path: Path) -> None:
    path = recipe(tmp_path, evaluation={"measure": "likelihood", "controls": ["sft"]})
    code, out, err = run(str(path))
    assert code in (0, 3), err
    card = (tmp_path / "out" / "README.md").read_text()
    assert "## Results" in card
    assert "| letters | local | yes |" in card
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["verdict"]["means"]) == {"fused", "base", "sft", "letters", "calc"}
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert report["domain_weights"]["reverse"]["letters"] > 0.95
    assert ("may be released" in out) == (code == 0)
    again, _, told = run(str(path), "--json")
    assert again == code
    assert "scored" in told


@pytest.mark.parametrize(
    ("content", "said"),
    [("target: [", "is no YAML"), ("{}", "missing required field"), (None, "there is no recipe")],
)
def test_a_recipe_that_is_none_is_told_in_one_line(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_text(content)
    code, _, err = run(str(path))
    assert code == 2
    assert said in err
