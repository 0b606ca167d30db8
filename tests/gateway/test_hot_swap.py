"""Does a newly deployed router take over without a dropped request, and does a broken one never get to serve?"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest

from encoders.catalogue import load_encoder
from registry.artifacts import ArtifactError, Artifacts
from routers.prior import PriorRouter
from routers.protocol import Outcomes
from service.app import create_app
from tests.gateway.live import HI, MODELS, Fleet, configured, fleet, until
from tests.upstream import Gate, answer, gated

ROWS = 40


def publish(artifacts: Artifacts, best: str) -> str:
    """Train and store a router by which `best` is the best arm; returns its version."""
    encoder = load_encoder("static")
    arms = tuple(MODELS)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(ROWS, encoder.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    quality = np.tile(np.array([0.9 if arm == best else 0.2 for arm in arms], dtype=np.float32), (ROWS, 1))
    same = np.full((ROWS, len(arms)), 0.001, dtype=np.float32)
    ones = np.ones((ROWS, len(arms)), dtype=np.float32)
    ids = tuple(str(row) for row in range(ROWS))
    router = PriorRouter.fit(Outcomes(vectors, arms, quality, same, same, ones, encoder.hash, ids))
    return artifacts.publish("router", "test", router.arrays(), router.meta()).version


@dataclass
class Load:
    """Clients that ask without a pause until told to stop, and what they saw."""

    live: Fleet
    stopping: threading.Event = field(default_factory=threading.Event)
    seen: list[tuple[str, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def run(self, stream: bool) -> None:
        body = {"model": "auto:best", "messages": HI, "stream": stream}
        with httpx.Client(base_url=self.live.gateway.root, timeout=10) as client:
            while not self.stopping.is_set():
                try:
                    response = client.post("/v1/chat/completions", json=body)
                except httpx.TransportError as error:
                    self.failures.append(repr(error))
                    continue
                if response.status_code != 200 or (stream and not response.text.endswith("data: [DONE]\n\n")):
                    self.failures.append(response.text)
                self.seen.append((response.headers["x-tokamak-router"], response.headers["x-tokamak-model"]))


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path, routers={"poll_s": 0.05}) as made:
        yield made


def test_swapping_under_load_drops_nothing_and_mixes_nothing(live: Fleet) -> None:
    artifacts = Artifacts(live.gateway.data_dir / "artifacts")
    versions = {publish(artifacts, model): model for model in MODELS}
    load = Load(live)
    threads = [threading.Thread(target=load.run, args=(stream,)) for stream in (False, True, False, True)]
    for thread in threads:
        thread.start()
    try:
        for version in [*versions, *versions]:
            artifacts.deploy("router", version)
            seen = len(load.seen)
            until(lambda: version in {router for router, _ in load.seen[seen:]}, f"{version} never served")  # noqa: B023
    finally:
        load.stopping.set()
        for thread in threads:
            thread.join()
    assert load.failures == []
    expected = {"prior@0": "gamma", **versions}
    assert {router for router, _ in load.seen} >= set(versions)
    assert all(expected[router] == model for router, model in load.seen)


def test_a_stream_that_began_before_the_swap_ends_as_it_began(live: Fleet) -> None:
    artifacts = Artifacts(live.gateway.data_dir / "artifacts")
    gate = Gate()
    live["gamma"].script(gated(answer("slow"), gate, after=1))
    with live.http.stream("POST", "/v1/chat/completions", json={
        "model": "auto:best", "messages": HI, "stream": True,
    }) as response:  # fmt: skip
        artifacts.deploy("router", publish(artifacts, "alpha"))
        until(lambda: live.chat("auto:best").headers["x-tokamak-model"] == "alpha", "the new router never served")
        gate.open()
        assert response.read().endswith(b"data: [DONE]\n\n")
    assert live.record_of(response).decision.router == "prior@0"  # type: ignore[union-attr]


def test_a_roll_back_serves_the_version_before(live: Fleet) -> None:
    artifacts = Artifacts(live.gateway.data_dir / "artifacts")
    first, second = publish(artifacts, "alpha"), publish(artifacts, "beta")
    for version in (first, second):
        artifacts.deploy("router", version)
    serves(live, second)
    assert artifacts.roll_back("router") == first
    serves(live, first)
    record = live.record_of(live.chat())
    assert record.decision is not None
    assert record.decision.router == first


def serves(live: Fleet, version: str) -> None:
    until(lambda: live.chat().headers["x-tokamak-router"] == version, f"{version} never served")


@pytest.mark.parametrize("damage", ["arrays", "manifest", "pointer", "encoder"])
def test_a_broken_version_never_serves_and_the_old_one_goes_on(
    live: Fleet, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    artifacts = Artifacts(live.gateway.data_dir / "artifacts")
    good = publish(artifacts, "alpha")
    artifacts.deploy("router", good)
    serves(live, good)
    bad = publish(artifacts, "beta")
    folder = live.gateway.data_dir / "artifacts" / "router"
    break_version(folder, bad, damage)
    until(lambda: "goes on serving" in caplog.text, "the gateway did not report the broken version")
    assert live.chat("auto:best").headers["x-tokamak-router"] == good
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("damage", ["arrays", "manifest", "pointer", "encoder"])
async def test_a_gateway_does_not_start_with_a_broken_version(tmp_path: Path, damage: str) -> None:
    artifacts = Artifacts(tmp_path / "artifacts")
    version = publish(artifacts, "alpha")
    break_version(tmp_path / "artifacts" / "router", version, damage)
    app = create_app(configured(tmp_path, {"alpha": "http://127.0.0.1:9/v1"}, {"alpha": {}}))
    with pytest.raises(ArtifactError, match=r"train|deploy"):
        await app.gateway.start()


def break_version(folder: Path, version: str, damage: str) -> None:
    """Damage the version and point to it, as a crash, a bad disk or a copy from elsewhere would leave it."""
    arrays, manifest = folder / version / "arrays.safetensors", folder / version / "manifest.json"
    if damage == "arrays":
        arrays.write_bytes(arrays.read_bytes()[:-4])
    elif damage == "manifest":
        manifest.write_text("{")
    elif damage == "encoder":
        manifest.write_text(manifest.read_text().replace(load_encoder("static").hash, "0123456789abcdef"))
    pointer = json.loads((folder / "deployed.json").read_text()) if (folder / "deployed.json").exists() else {}
    text = "garbage" if damage == "pointer" else json.dumps({**pointer, "version": version})
    (folder / "deployed.json").write_text(text)
