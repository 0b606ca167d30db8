"""The live proof in small: real models, real processes, templates built from logged answers, a router that learns."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo.fleet.codes import CODES, LEARNED
from demo.fleet.roster import CODE_BOOK
from demo.thought import report
from demo.thought.config import thought_config
from demo.thought.experiment import KINDS, WAYS, Measured, Plan, kind_of
from demo.thought.run import Findings, Proof, mixed_up
from encoders.catalogue import load_encoder
from registry.config import Config
from templates_store.create import create_template

STEPS = (
    "Turn the letters around and read them.",
    "Remove the first letter and go on.",
    "Sort them by their size first.",
)
FEW = Plan(
    codes=(*[code for code in CODES if code not in LEARNED][:9], *LEARNED[:3]), sage_per_code=3, sage_sorting=6,
    explore_per_code=10, explore_sorting=60, test_per_code=4, test_sorting=20,
)  # fmt: skip


class Unseen:
    """Progress that nobody watches."""

    def start(self, phase: str, total: int) -> None: ...

    def step(self) -> None: ...


def findings(scores: dict[str, list[float]]) -> Findings:
    """Findings of four questions: two codes that are not known, one that is, one of sorting."""
    asked = Plan().test()
    by_kind = {kind: [q for q in asked if kind_of(q) == kind] for kind in KINDS}
    chosen = [*by_kind["codes it does not know"][:2], by_kind["codes it knows"][0], by_kind["sorting"][0]]
    rows = tuple(
        Measured(way, np.array(scores[way]), np.full(4, 1e-5), np.array([float(way != "without")] * 4)) for way in WAYS
    )
    return Findings(tuple(chosen), rows, 8, 8, 16, (), {}, "r@1", {"templates": [], "arms": []}, {"test": 1.0})


def test_the_table_compares_each_way_with_none() -> None:
    found = findings({
        "without": [0, 0, 1, 1], "random": [0, 0, 0, 0], "retrieved": [1, 1, 1, 0], "routed": [1, 1, 1, 1],
    })  # fmt: skip
    lines = {(line.kind, line.way): line for line in report.lines(found)}
    assert lines["all", "without"].accuracy == 0.5
    assert lines["all", "routed"].minus is not None
    assert lines["all", "routed"].minus.mean == 0.5
    assert lines["all codes", "retrieved"].questions == 3
    assert lines["codes it does not know", "retrieved"].minus == (1.0, 1.0, 1.0)
    assert lines["sorting", "retrieved"].minus == (-1.0, -1.0, -1.0)
    assert report.figures(found)["live_uplift_points"] == 50.0
    assert report.harm_avoided(found)[1].mean == 0.0
    assert len(report.rows(found)) == 5 * len(WAYS)


def test_random_templates_are_the_same_ones_at_the_wrong_questions() -> None:
    encoder = load_encoder("static")
    made = [
        create_template(encoder, f"The {code} code", f"Problem: A code. Steps: {step} Answer: Say it.", builder="test")
        for code, step in zip(CODES, STEPS, strict=False)
    ]
    mixed = {template.query: template for template in mixed_up(made)}
    assert {template.text for template in mixed.values()} == {template.text for template in made}
    assert all(mixed[template.query].text != template.text for template in made)
    assert all(mixed[template.query].vector == template.vector for template in made)


def test_test_questions_are_never_asked_before() -> None:
    plan = Plan()
    learned = {question.text for question in (*plan.sage(), *plan.explore())}
    assert len(plan.test()) == 48 * 11 + 504
    assert all(question.split == "test" and question.text not in learned for question in plan.test())


def test_the_config_is_valid() -> None:
    config = Config.model_validate(thought_config("http://127.0.0.1:8500/v1/"))
    assert list(config.models) == list(CODE_BOOK)
    assert config.models["follower-llama"].ways == ["direct", "thought"]


@pytest.mark.slow
@pytest.mark.fleet
def test_templates_help_and_the_router_leaves_them_where_they_hurt(tmp_path: Path) -> None:
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        pytest.skip("the demo fleet needs torch and transformers; install the extra `demo`")
    found = Proof(FEW, tmp_path, "cluster", Unseen()).run()
    lines = {(line.kind, line.way): line for line in report.lines(found)}

    def accuracy(kind: str, way: Any) -> float:
        return lines[kind, way].accuracy

    assert found.sage_right > 0.9 * found.sage_asked
    assert len(found.templates) >= 11
    assert accuracy("codes it does not know", "retrieved") > accuracy("codes it does not know", "without") + 0.4
    assert accuracy("all codes", "random") < accuracy("all codes", "retrieved") - 0.4
    assert accuracy("sorting", "retrieved") < accuracy("sorting", "without") - 0.4
    assert lines["sorting", "routed"].shown <= 0.2
    assert report.uplift(found).low > 0
