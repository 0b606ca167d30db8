"""The stage on the target's own replies, and the picture of the losses, with real models of the fleet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from offline.distill.curves import draw, smoothed
from offline.distill.fuse import Run, fuse
from offline.distill.on_policy import ON_POLICY, REPLIES, on_policy, settings_of, weights_by_domain
from offline.distill.prepare import Prepared, prepare
from offline.distill.recipe import Recipe, RecipeError, read_recipe
from offline.distill.samples import read_conversations
from offline.distill.training import read_curve
from tests.distill.test_fuse import MODELS, recipe

STAGE = {"rounds": 2, "prompts": 12, "steps": 3, "max_reply_tokens": 10}
SPECIALIST = {"name": "fused", "model": str(MODELS / "letters-gpt2")}


def fused(tmp_path: Path, **changes: object) -> tuple[Recipe, Prepared, Run]:
    made = read_recipe(recipe(tmp_path, target=SPECIALIST, **({"on_policy": STAGE} | changes)))
    prepared = prepare(made)
    run = fuse(made, prepared)
    assert run is not None
    return made, prepared, run


@pytest.mark.slow
def test_the_target_learns_from_what_sources_say_of_its_own_replies(tmp_path: Path) -> None:
    made, prepared, run = fused(tmp_path)
    told: list[str] = []
    done = on_policy(made, prepared, run, say=told.append)
    assert done is not None
    assert done.folder.parent.name == "round-1"
    assert (done.folder / "model.safetensors").exists()
    folder = made.output / ON_POLICY / "round-0"
    replies = read_conversations(folder / REPLIES)
    assert 0 < len(replies) <= 12
    assert {one.domain for one in replies} <= {"add", "reverse"}
    references = {one.messages[-1]["content"] for one in read_conversations(made.data.train)}
    assert any(one.reply not in references for one in replies)
    points = list(read_curve(folder))
    assert [point.step for point in points] == [1, 2, 3]
    assert all(point.loss == pytest.approx(point.fused) and point.fused > 0 for point in points)
    assert any("replies of its own" in line for line in told)
    kept = (folder / REPLIES).read_bytes()
    again = on_policy(made, prepared, run)
    assert again is not None
    assert again.trained.resumed_at == 3
    assert (folder / REPLIES).read_bytes() == kept


def test_weights_are_those_of_the_reference_replies(tmp_path: Path) -> None:
    made, prepared, run = fused(tmp_path)
    assert run.selection is not None
    found = weights_by_domain(run.selection, ["add", "reverse"], prepared)
    rows = {sample.domain: row for sample, row in zip(prepared.samples, found, strict=True)}
    np.testing.assert_array_equal(rows["add"], run.selection.weights[0])
    np.testing.assert_array_equal(rows["reverse"], run.selection.weights[1])
    with pytest.raises(RecipeError, match="no weights of the domain reverse"):
        weights_by_domain(run.selection, ["add"], prepared)
    assert (settings_of(made).mix, settings_of(made).divergence, settings_of(made).steps) == (1.0, "jsd", 3)


def test_the_stage_does_not_change_what_the_fused_weights_depend_on(tmp_path: Path) -> None:
    with_stage = read_recipe(recipe(tmp_path, on_policy=STAGE))
    without = read_recipe(recipe(tmp_path))
    assert with_stage.digest() == without.digest()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"on_policy": None}, "expected `on_policy`"),
        ({"selection": {"method": "min_ce"}}, "needs weights of domains"),
        ({"lora": {"rank": 2}}, "trains all weights"),
    ],
)
def test_a_stage_that_cannot_be_is_told(tmp_path: Path, change: dict[str, object], said: str) -> None:
    made, prepared, run = fused(tmp_path, **change)
    with pytest.raises(RecipeError, match=said):
        on_policy(made, prepared, run)


def test_curves_are_drawn_of_runs_that_have_some(tmp_path: Path) -> None:
    made, _, _ = fused(tmp_path)
    png = tmp_path / "curves.png"
    assert not draw({"none": tmp_path / "absent"}, png)
    assert not png.exists()
    assert draw({"fused": made.output / "fused", "none": tmp_path / "absent"}, png)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert smoothed([1.0, 2.0, 6.0]) == [1.0, 2.0, 6.0]
    assert smoothed([0.0] * 50 + [100.0] + [0.0] * 49)[50] == pytest.approx(100.0 / 5)
