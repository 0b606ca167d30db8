from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import typer
from typer.testing import CliRunner

from encoders.catalogue import load_encoder
from offline.commands import deploy_command, evaluate_command
from registry.artifacts import Artifacts
from routers.catalogue import KIND
from routers.classic.cluster import ClusterRouter
from routers.policy.decide import decide
from routers.prior import PriorRouter
from routers.protocol import Outcomes, Router
from tests.off_policy.logs import decision
from tests.offline_routers.interactions import interaction, score, written
from traffic.records import Feedback, Interaction, Score

ARMS = ("book", "calc")
app = typer.Typer()
app.command("evaluate")(evaluate_command)
app.command("deploy")(deploy_command)


def question(number: int) -> tuple[str, int]:
    """A text, and the arm that is good at it."""
    sums = number % 2
    return f"what is {number} plus {number + 1}" if sums else f"name the capital city of country {number}", sums


def taught() -> Outcomes:
    """Every arm's answer to questions that are not in the log."""
    encoder = load_encoder("static")
    asked = [question(number) for number in range(10_000, 10_200)]
    quality = np.full((200, 2), 0.1, dtype=np.float32)
    quality[np.arange(200), [good for _, good in asked]] = 0.9
    quality[:, 0] += 0.05
    unknown = np.full((200, 2), np.nan, dtype=np.float32)
    return Outcomes(
        encoder.encode([text for text, _ in asked]), ARMS, quality, unknown, unknown,
        np.ones((200, 2), dtype=np.float32), encoder.hash, tuple(text for text, _ in asked),
    )  # fmt: skip


def traffic(router: Router, exploration: float, n: int) -> list[Interaction | Feedback | Score]:
    """What a gateway would have logged that serves this router."""
    encoder, rng = load_encoder("static"), np.random.default_rng(0)
    vectors = encoder.encode([question(number)[0] for number in range(n)])
    records: list[Interaction | Feedback | Score] = []
    for number, vector in enumerate(vectors):
        text, good = question(number)
        choice = decide(router.predict(vector), [0, 1], 1.0, exploration, router.cost_scale, rng.random())
        arm = ARMS[choice.chosen]
        decided = decision(arm, dict(zip(ARMS, choice.propensity, strict=True)))
        raw = vector.astype("<f4").tobytes()
        records.append(interaction(number, arm, text, encoder=encoder.hash, vector=raw, decision=decided))
        records.append(score(number, float(rng.random() < (0.9 if choice.chosen == good else 0.1))))
    return records


def stored(folder: Path, exploration: float, n: int) -> tuple[str, str]:
    """A data folder in which a single arm serves and a router of clusters waits; their versions."""
    outcomes = taught()
    single, clusters = PriorRouter.fit(outcomes), ClusterRouter.fit(outcomes, clusters=8)

    async def write() -> None:
        await (await written(folder, traffic(single, exploration, n))).close()

    asyncio.run(write())
    store = Artifacts(folder / "artifacts")
    champion = store.publish(KIND, "prior", single.arrays(), single.meta()).version
    store.deploy(KIND, champion)
    learned = {"source": {"log": {"used": 1}}}
    return champion, store.publish(KIND, "cluster", clusters.arrays(), clusters.meta(), learned).version


def run(folder: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["evaluate", "--off-policy", "--data-dir", str(folder), *arguments])


def test_a_verdict_is_given_where_the_log_says_enough(tmp_path: Path) -> None:
    champion, candidate = stored(tmp_path, 0.4, 1200)
    result = run(tmp_path, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["candidate_version"], told["champion_version"]) == (candidate, champion)
    assert told["report"]["verdict"] == "better"
    assert 0.25 < told["report"]["difference"]["value"] < 0.55
    assert told["counts"]["used"] == 1200
    assert told["maybe_trained_on"] == 1200
    shown = run(tmp_path)
    assert shown.exit_code == 0
    for word in ("better: the difference is", "effective", "difference of quality", "USD per 1,000", candidate):
        assert word in shown.stdout
    assert "may have taught it" in shown.stderr
    back = run(tmp_path, "--candidate", champion, "--champion", candidate, "--json")
    assert json.loads(back.stdout)["report"]["verdict"] == "worse"
    logged = json.loads(run(tmp_path, "--champion", "logged", "--json").stdout)
    assert logged["report"]["difference"] == told["report"]["difference"]
    serving = json.loads(run(tmp_path, "--candidate", champion, "--json").stdout)
    assert (serving["champion_version"], serving["report"]["verdict"]) == ("logged", "not worse")


def test_too_small_a_log_ends_with_exit_code_three_and_what_is_missing(tmp_path: Path) -> None:
    stored(tmp_path, 0.1, 400)
    result = run(tmp_path)
    assert result.exit_code == 3
    assert "undecided: 400 decisions are worth" in result.stdout
    assert "more decisions at this exploration are needed" in result.stderr
    report = json.loads(run(tmp_path, "--json").stdout)["report"]
    assert report["verdict"] == "undecided"
    assert report["effective"] < 200 < report["needed"]


def test_a_log_without_exploration_ends_with_exit_code_three(tmp_path: Path) -> None:
    stored(tmp_path, 0.0, 50)
    result = run(tmp_path)
    assert result.exit_code == 3
    assert "no scored decision that explored" in result.stdout
    assert "50 deterministic" in result.stderr


def test_mistakes_are_told_with_exit_code_two(tmp_path: Path) -> None:
    assert "there is no log" in run(tmp_path).stderr
    stored(tmp_path, 0.5, 10)
    for arguments, message in (
        (("--candidate", "cluster@00000000"), "no router cluster@00000000"),
        (("--champion", "nobody"), "a version looks like"),
        (("--preference", "1.5"), "--preference must lie in [0, 1], got 1.5"),
        (("--data", "answers.parquet"), "leave --data out"),
    ):
        result = run(tmp_path, *arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert message in result.stderr
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "traffic.db").write_bytes((tmp_path / "traffic.db").read_bytes())
    assert "there is no router below" in run(tmp_path / "empty").stderr
