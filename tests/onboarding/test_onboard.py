"""`tokamak onboard` from end to end, over real HTTP: asks, scores, goes on where it stopped, and publishes a router."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from encoders.query_text import content_text
from offline.commands import train_command
from offline.questions import questions_from_log
from offline.routing.onboard_command import onboard_command
from registry.artifacts import Artifacts
from routers.catalogue import KIND, load_router
from tests.gateway.live import fleet, until
from tests.offline_routers.interactions import interaction, score, written
from tests.upstream import Received, ScriptedUpstream, answer, failing
from tests.upstream.script import Steps
from traffic.records import Feedback, Interaction, Score

QUESTIONS = 120
app = typer.Typer()
app.command("train")(train_command)
app.command("onboard")(onboard_command)


def question_of(number: int) -> str:
    kind = ("apples in a basket", "planets of a star", "pages of a novel")[number % 3]
    return f"There are {number} {kind}, and one more comes. How many are there in the end?"


def number_in(request: Received) -> int:
    found = re.search(r"\d+", content_text(request.json["messages"][-1]["content"]))
    assert found is not None
    return int(found[0])


def always_right(request: Received) -> Steps:
    return answer(f"That makes {number_in(request) + 1}.")(request)


@dataclass
class Place:
    """A data folder, a config that names the models, a file of answers, and the new model's upstream."""

    folder: Path
    upstream: ScriptedUpstream
    rows: list[dict[str, Any]] = field(default_factory=list)

    def run(self, *arguments: str) -> Result:
        common = ["--data-dir", str(self.folder / "data")]
        return CliRunner().invoke(app, [*arguments, *common])

    def onboard(self, *arguments: str, model: str = "new") -> Result:
        named = ["--config", str(self.folder / "tokamak.yaml"), "--data", str(self.folder / "answers.jsonl.gz")]
        return self.run("onboard", model, *named, *arguments)

    def write_answers(self) -> None:
        with gzip.open(self.folder / "answers.jsonl.gz", "wb") as file:
            for row in self.rows:
                file.write(msgspec.json.encode(row) + b"\n")

    @property
    def artifacts(self) -> Artifacts:
        return Artifacts(self.folder / "data" / "artifacts")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Two known models that are right on a half and a third of the questions; a router learned from them serves."""
    with ScriptedUpstream(("new",), default=always_right) as upstream:
        config = {
            "version": 1,
            "upstreams": {"up": {"base_url": upstream.url, "api_key_env": "NEW_KEY"}},
            "models": {
                name: {
                    "endpoints": [{"upstream": "up"}],
                    "prices": {"prompt_per_1m": 1.0, "completion_per_1m": 2.0},
                    "ways": ["direct", "think", "thought"],
                }
                for name in ("half", "third", "new")
            },
        }
        (tmp_path / "tokamak.yaml").write_text(yaml.safe_dump(config))
        here = Place(tmp_path, upstream)
        for number in range(QUESTIONS):
            for model, divisor in (("half", 2), ("third", 3)):
                here.rows.append(
                    {
                        "query": question_of(number), "model": model, "score": float(number % divisor == 0),
                        "response": "?", "reference": str(number + 1), "score_kind": "exact_match", "task": "count",
                    }
                )  # fmt: skip
        here.write_answers()
        trained = here.run("train", "--data", str(tmp_path / "answers.jsonl.gz"), "--router", "cluster", "--deploy")
        assert trained.exit_code == 0, trained.output
        yield here


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEW_KEY", "sk-new")


def test_a_new_model_is_asked_scored_and_served(place: Place) -> None:
    before = place.artifacts.deployed(KIND)
    done = place.onboard("--deploy")
    assert done.exit_code == 0, done.output
    assert len(place.upstream.requests) == 64
    assert all(request.header("authorization") == "Bearer sk-new" for request in place.upstream.requests)
    version = place.artifacts.deployed(KIND)
    assert version is not None
    assert version.startswith("onboarded@")
    assert f"{version} now serves" in done.output
    artifact = place.artifacts.load(KIND, version)
    evidence = artifact.manifest.evidence["onboarding"]
    assert (evidence["arm"], evidence["base"], evidence["probes"], evidence["scored"]) == ("new", before, 64, 64)
    assert evidence["mean_score"] == 1.0
    assert evidence["failed"] == {}
    assert evidence["expected_quality"] > max(evidence["known_arms"].values())
    assert evidence["share_of_queries_it_is_best_at"] > 0.9
    assert artifact.manifest.encoder is not None
    assert load_router(artifact, artifact.manifest.encoder).arms == ("half", "third", "new")
    # 11 prompt and 7 completion tokens per answer, as the upstream reports them.
    assert evidence["spent_usd"] == pytest.approx(64 * (11 * 1.0 + 7 * 2.0) / 1e6)
    again = place.onboard()
    assert again.exit_code == 2
    assert f"{version} knows new already" in again.output


def test_failed_calls_are_missing_and_the_next_run_asks_only_these(place: Place) -> None:
    def unreliable(request: Received) -> Steps:
        script: Callable[[Received], Steps] = failing(400) if number_in(request) % 4 == 0 else always_right
        return script(request)

    place.upstream.default = unreliable
    done = place.onboard()
    assert done.exit_code == 0, done.output
    failed = sum(number_in(request) % 4 == 0 for request in place.upstream.requests)
    assert failed > 5
    assert f"{64 - failed} of 64 probes answered" in done.output
    assert f"not answered: {failed} HTTP 400 (run again" in done.output
    (first,) = (m for m in place.artifacts.versions(KIND) if m.name == "onboarded")
    assert first.evidence["onboarding"]["scored"] == 64 - failed
    assert first.evidence["onboarding"]["mean_score"] == 1.0
    asked = {number_in(request) for request in place.upstream.requests}
    place.upstream.forget()
    place.upstream.default = always_right
    done = place.onboard()
    assert done.exit_code == 0, done.output
    assert {number_in(request) for request in place.upstream.requests} == {n for n in asked if n % 4 == 0}
    assert any(
        m.evidence["onboarding"]["scored"] == 64 for m in place.artifacts.versions(KIND) if m.name == "onboarded"
    )


def test_passing_failures_are_tried_again_and_broken_lines_are_asked_again(place: Place) -> None:
    place.upstream.script(failing(503, retry_after="0"), failing(429, retry_after="0"))
    done = place.onboard("--probes", "10", "--concurrency", "1", "--ask-only")
    assert done.exit_code == 0, done.output
    assert len(place.upstream.requests) == 12
    kept = Path(done.output.strip().splitlines()[-1])
    assert len(kept.read_bytes().splitlines()) == 10
    kept.write_bytes(kept.read_bytes()[:-20])
    place.upstream.forget()
    place.upstream.default = always_right
    assert place.onboard("--probes", "10").exit_code == 0
    assert len(place.upstream.requests) == 1


def test_no_more_is_spent_than_allowed(place: Place) -> None:
    # A call can cost at most about 30 prompt tokens and 1,000 of the answer: $0.00203; it does cost $0.000025.
    done = place.onboard("--max-usd", "0.0024", "--max-tokens", "1000", "--concurrency", "1")
    assert done.exit_code == 0, done.output
    assert 8 <= len(place.upstream.requests) < 20
    assert "over the budget" in done.output
    assert "with a higher --max-usd" in done.output
    place.upstream.forget()
    nothing = place.onboard("--max-usd", "0.0001", model="new#think")
    assert nothing.exit_code == 2
    assert place.upstream.requests == []
    assert "at least 8 are needed" in nothing.output


def test_a_dry_run_asks_nothing_and_says_what_it_would_cost(place: Place) -> None:
    done = place.onboard("--dry-run")
    assert done.exit_code == 0
    assert place.upstream.requests == []
    found = re.search(r"64 probes for new, 64 of them to be asked; all of them cost about \$([\d.]+)", done.output)
    assert found is not None
    assert float(found[1]) == pytest.approx(64 * (27 * 1.0 + 300 * 2.0) / 1e6, rel=0.05)


def test_an_operator_scores_the_answers(place: Place) -> None:
    for row in place.rows:
        row["score_kind"] = "code_eval"
    place.write_answers()
    refused = place.onboard()
    assert refused.exit_code == 2
    assert "0 of 120 scored queries can be asked and checked" in refused.output
    asked = place.onboard("--ask-only")
    assert asked.exit_code == 0, asked.output
    answers = [
        msgspec.json.decode(line) for line in Path(asked.output.strip().splitlines()[-1]).read_bytes().splitlines()
    ]
    scores = place.folder / "scores.jsonl"
    given = [{"query_id": row["query_id"], "score": 0.25 if i else None} for i, row in enumerate(answers)]
    scores.write_bytes(b"\n".join(msgspec.json.encode(row) for row in given))
    done = place.onboard("--scores", str(scores), "--json")
    assert done.exit_code == 0, done.output
    assert len(place.upstream.requests) == 64
    (published,) = (m for m in place.artifacts.versions(KIND) if m.name == "onboarded")
    assert published.evidence["onboarding"]["scored"] == 63
    assert published.evidence["onboarding"]["mean_score"] == 0.25
    scores.write_text('{"query_id": "x", "score": 7}\n')
    bad = place.onboard("--scores", str(scores))
    assert bad.exit_code == 2
    assert "line 1: score must lie in [0, 1], got 7" in bad.output


def test_a_way_of_asking_is_an_arm_of_its_own(place: Place) -> None:
    done = place.onboard("--probes", "12", model="new#think")
    assert done.exit_code == 0, done.output
    assert all("step by step" in r.json["messages"][-1]["content"] for r in place.upstream.requests)
    refused = place.onboard(model="new#thought")
    assert refused.exit_code == 2
    assert "needs templates" in refused.output


def test_mistakes_are_told_in_one_line(place: Place, tmp_path: Path) -> None:
    unknown = place.onboard(model="nobody")
    assert unknown.exit_code == 2
    assert "has no arm 'nobody'" in unknown.output
    absent = place.onboard("--router", "cluster@00000000")
    assert absent.exit_code == 2
    elsewhere = CliRunner().invoke(
        app,
        ["onboard", "new", "--config", str(place.folder / "tokamak.yaml"), "--data",
         str(place.folder / "answers.jsonl.gz"), "--data-dir", str(tmp_path / "elsewhere")],
    )  # fmt: skip
    assert elsewhere.exit_code == 2
    assert "no router is deployed that the model could join" in elsewhere.output


async def test_questions_of_a_log_are_the_conversations_as_they_were_sent(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one"}]
    said = b'{"choices": [{"message": {"role": "assistant", "content": "right answer"}}]}'
    shown = msgspec.json.encode({"role": "assistant", "content": "shown"})
    body = msgspec.json.encode({"model": "auto", "messages": messages})
    records: list[Interaction | Feedback | Score] = [
        interaction(1, "a", "one", request=body, response=said),
        score(1, 1.0),
        interaction(
            2, "a", "two", request=msgspec.json.encode({"model": "a", "messages": messages[1:]}), response=said
        ),
        score(2, 0.0),
        Feedback(id="f", interaction_id="i-2", created_at=1.0, metric="fix", demonstration=shown),
        interaction(3, "a", "three", request=None),
        interaction(4, "a", "four", request=b"not json"),
        interaction(5, "a", "five", request=body, stored=False),
        interaction(6, "b", "one", request=body, response=said),
        score(6, 0.0),
    ]
    log = await written(tmp_path, records)
    found = list(questions_from_log(log).values())
    await log.close()
    assert [(q.reference, q.kind) for q in found] == [("right answer", None), ("shown", None)]
    assert found[0].messages == messages


def test_a_model_is_onboarded_from_what_the_gateway_logged(tmp_path: Path) -> None:
    """Traffic and feedback over HTTP, a router learned from them, and a new model that says what was liked."""
    models = {"small": {"quality_prior": 0.5}, "large": {"quality_prior": 0.6}}
    with fleet(tmp_path, models) as live, ScriptedUpstream(("new",), default=answer("Hello there.")) as upstream:
        for number in range(60):
            for name in models:
                asked = live.chat(name, messages=[{"role": "user", "content": question_of(number)}])
                told = {"request_id": asked.headers["x-request-id"], "value": float(name == "large" or number % 2)}
                assert live.post("/v1/feedback", told).status_code == 200
        until(lambda: len(live.gateway.feedback()) == 120, "the feedback is not in the log")
        config = {
            "version": 1,
            "upstreams": {"up": {"base_url": upstream.url}},
            "models": {"new": {"endpoints": [{"upstream": "up"}]}},
        }
        (tmp_path / "new.yaml").write_text(yaml.safe_dump(config))
        named = ["--data-dir", str(tmp_path)]
        trained = CliRunner().invoke(app, ["train", "--router", "cluster", "--deploy", *named])
        assert trained.exit_code == 0, trained.output
        done = CliRunner().invoke(app, ["onboard", "new", "--config", str(tmp_path / "new.yaml"), "--deploy", *named])
        assert done.exit_code == 0, done.output
        assert len(upstream.requests) == 60
        assert "new has no prices" in done.output
        version = Artifacts(tmp_path / "artifacts").deployed(KIND)
        taken = httpx.post(f"{live.gateway.admin_url}/admin/routers/take-in").json()
        assert taken["serving"] == version
        assert live.chat("auto").status_code == 200
