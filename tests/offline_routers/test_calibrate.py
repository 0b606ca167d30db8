from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from encoders.catalogue import load_encoder
from offline.routing.calibrate import LEAST_QUERIES, calibrate
from offline.routing.calibrate_command import calibrate_command
from registry.artifacts import Artifacts
from routers.catalogue import KIND
from routers.classic.knn import KnnRouter
from routers.policy.threshold import NAME
from routers.protocol import Outcomes, TrainingError
from tests.gateway.live import HI, fleet
from tests.offline_routers.interactions import ENCODER, HashEncoder, interaction
from traffic.records import Interaction

app = typer.Typer()
app.command()(calibrate_command)

WORDS = ("red", "blue", "green", "ship", "train", "tree", "river", "stone")


def texts(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, 4)) + f" {number}" for number in range(count)]


def outcomes(encoder_hash: str = ENCODER) -> Outcomes:
    """The strong arm is right everywhere but on ships, the weak one only on colours."""
    asked = texts(200)
    strong = np.array([float("ship" not in text) for text in asked])
    weak = np.array([float("red" in text or "blue" in text) for text in asked])
    quality = np.stack([weak, strong], axis=1).astype(np.float32)
    cost = np.tile(np.array([[0.001, 0.02]], dtype=np.float32), (len(asked), 1))
    return Outcomes(
        HashEncoder().encode(asked), ("tiny", "vast"), quality, cost, np.full_like(cost, 0.5), np.ones_like(cost),
        encoder_hash, tuple(f"q{number}" for number in range(len(asked))),
    )  # fmt: skip


@pytest.fixture(scope="module")
def router() -> KnnRouter:
    return KnnRouter.fit(outcomes())


@pytest.fixture(scope="module")
def logged() -> list[Interaction]:
    return [interaction(number, "tiny", text) for number, text in enumerate(texts(400))]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_the_name_sends_the_share_to_the_strong_arm(router: KnnRouter, logged: list[Interaction], share: float) -> None:
    found = calibrate(router, logged, share)
    assert found.reached_share == pytest.approx(share, abs=0.05)
    assert found.queries == 400
    name = NAME.fullmatch(found.model)
    assert name is not None
    assert (name["router"], float(name["threshold"])) == ("knn", found.threshold)
    turned = calibrate(router, logged, share, strong="tiny", weak="vast")
    assert turned.reached_share == pytest.approx(share, abs=0.05)


def test_what_cannot_be_calibrated(router: KnnRouter, logged: list[Interaction]) -> None:
    with pytest.raises(TrainingError, match=f"holds 10 queries .* {LEAST_QUERIES} are needed"):
        calibrate(router, logged[:10], 0.5)
    with pytest.raises(TrainingError, match="no arm 'huge'; it has tiny, vast"):
        calibrate(router, logged, 0.5, strong="huge", weak="tiny")
    with pytest.raises(TrainingError, match="both arms"):
        calibrate(router, logged, 0.5, strong="tiny")
    with pytest.raises(ValueError, match="share"):
        calibrate(router, logged, 1.5)
    unpriced = KnnRouter.fit(replace(outcomes(), cost_usd=np.full((200, 2), np.nan, dtype=np.float32)))
    with pytest.raises(TrainingError, match="name the pair"):
        calibrate(unpriced, logged, 0.5)


def test_the_command_prints_a_model_that_the_gateway_serves(tmp_path: Path) -> None:
    encoder = load_encoder("static")
    asked = texts(200)
    learned = KnnRouter.fit(replace(outcomes(encoder.hash), vectors=encoder.encode(asked)))
    artifacts = Artifacts(tmp_path / "artifacts")
    artifacts.deploy(KIND, artifacts.publish(KIND, "knn", learned.arrays(), learned.meta()).version)
    models: dict[str, dict[str, Any]] = {
        "tiny": {"prices": {"prompt_per_1m": 0.1, "completion_per_1m": 0.4}},
        "vast": {"prices": {"prompt_per_1m": 10, "completion_per_1m": 40}},
    }
    command = ["--data-dir", str(tmp_path), "--strong-share", "0.4"]
    with fleet(tmp_path, models) as live:
        early = CliRunner().invoke(app, command)
        assert (early.exit_code, "are needed" in early.output) == (2, True)
        for text in asked[:60]:
            last = live.chat(messages=[{"role": "user", "content": text}])
        live.record_of(last)
        done = CliRunner().invoke(app, [*command, "--json"])
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        seen = [
            live.post("/v1/route", {"model": found["model"], "messages": [{"role": "user", "content": text}]}).json()
            for text in asked[:60]
        ]
        assert np.mean([route["arm"] == "vast" for route in seen]) == pytest.approx(found["reached_share"], abs=0.02)
        assert live.chat(found["model"], messages=HI).status_code == 200
    assert CliRunner().invoke(app, ["--data-dir", str(tmp_path / "none"), "--strong-share", "0.4"]).exit_code == 2
