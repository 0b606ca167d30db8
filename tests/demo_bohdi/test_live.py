"""The live proof on its real models, over HTTP, as short as can be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from demo.bohdi.domains import PLACES, TAUGHT, read
from demo.bohdi.loop import lessons_of, run
from demo.bohdi.policies import Plan, settings_of
from demo.bohdi.pupil import Pupil
from demo.bohdi.roster import PUPIL, SCHOOLING, SOURCES
from demo.bohdi.serving import Service, serving
from demo.fleet.engine import Served, load
from demo.fleet.roster import ROSTER
from encoders.catalogue import load_encoder
from offline.bohdi.events import Contested, TargetChanged
from offline.bohdi.log import EpisodeLog

pytestmark = pytest.mark.fleet
SHORT = Plan(rounds=2, paths=24, draw=24, steps=2, batch=8, held_out=2, glance=2)


@pytest.fixture(scope="module")
def beginner() -> Served:
    return load(SCHOOLING.folder, PUPIL)


@pytest.fixture(scope="module")
def service(beginner: Served) -> Iterator[Service]:
    with serving([*(load(one.folder, one.name) for one in SOURCES.values()), beginner], SOURCES) as running:
        yield running


@pytest.mark.slow
def test_rounds_and_trainings_follow_each_other_over_http(service: Service, beginner: Served, tmp_path: Path) -> None:
    encoder, told, before = load_encoder("static"), list[int](), dict.fromkeys(TAUGHT, 0.0)
    made = asyncio.run(
        run(
            "ours",
            SHORT,
            1,
            service,
            beginner,
            encoder,
            tmp_path,
            before,
            lambda seen: told.append(seen.number),
        )
    )
    assert told == [1, 2]
    with EpisodeLog(tmp_path / "ours-1.db") as log:
        log.verify()
        events = [event for _, event in log.events()]
        taught = lessons_of(log, settings_of("ours", SHORT, 1), replace(SHORT, replay=1.0), 1, 3)
    contests = [event for event in events if isinstance(event, Contested)]
    assert [event.version for event in events if isinstance(event, TargetChanged)] == [f"{PUPIL}@1", f"{PUPIL}@2"]
    assert {event.target_version for event in contests} == {"1", f"{PUPIL}@1"}
    decided = [event for event in contests if event.reward is not None]
    assert len(decided) >= SHORT.paths // 2
    for event in decided:
        right = any(reply.correct for reply in event.replies[1:])
        assert event.reward == float(right and not event.replies[0].correct)
    asked = [read(example.question) for example in taught]
    assert asked
    assert all(one is not None and one.split == "train" for one in asked)
    assert all(one.answer == example.answer for one, example in zip(asked, taught, strict=True) if one)
    assert set(made.after) == set(TAUGHT)
    assert set(made.rounds[0].found.asked) <= set(PLACES)


@pytest.mark.slow
def test_policies_with_one_seed_meet_the_same_sources(service: Service, beginner: Served, tmp_path: Path) -> None:
    encoder = load_encoder("static")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    one = Plan(rounds=1, paths=12, draw=12, steps=1, batch=4, held_out=1, glance=1)
    asyncio.run(run("uniform", one, 7, service, beginner, encoder, tmp_path / "first", {}, lambda _: None))
    replayed = service.server.replayed
    asyncio.run(run("uniform", one, 7, service, beginner, encoder, tmp_path / "second", {}, lambda _: None))
    assert service.server.replayed - replayed > 12 * len(SOURCES)
    questions = []
    for name in ("first", "second"):
        with EpisodeLog(tmp_path / name / "uniform-7.db") as log:
            questions.append([event.question for _, event in log.events() if isinstance(event, Contested)])
    assert sorted(questions[0]) == sorted(questions[1])


def test_replies_decoded_side_by_side_are_the_same_as_alone(service: Service) -> None:
    texts = ["Reverse abcde.", "Roman numeral of 4?", "Sort 93266 upwards.", "Nora's tool?"]

    async def ask(client: httpx.AsyncClient, text: str) -> str:
        body = {"model": PUPIL, "messages": [{"role": "user", "content": text}], "max_tokens": 12}
        answer = (await client.post("/chat/completions", json=body)).raise_for_status().json()
        return str(answer["choices"][0]["message"]["content"])

    async def both() -> tuple[list[str], list[str]]:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            together = await asyncio.gather(*(ask(client, text) for text in texts))
            return list(together), [await ask(client, text) for text in texts]

    together, alone = asyncio.run(both())
    assert together == alone


def test_training_changes_the_pupil_and_not_the_beginner(beginner: Served) -> None:
    pupil = Pupil(beginner, seed=3)
    before = pupil.examine(3, ["reverse"])
    with pytest.raises(ValueError, match="nothing to learn"):
        pupil.learn([], 1, 1, 1e-3)
    from demo.fleet.corpus import Example

    pupil.learn([(Example(None, "Reverse abcde.", "edcba"), 1.0)], 1, 2, 1e-3)
    assert pupil.version == "1"
    changed = [not a.equal(b) for a, b in zip(pupil.model.parameters(), beginner.model.parameters(), strict=True)]
    assert any(changed)
    assert Pupil(beginner, seed=3).examine(3, ["reverse"]) == before


def test_every_source_comes_from_a_specialist_of_the_fleet() -> None:
    assert [ROSTER[source.was].role for source in SOURCES.values()] == ["specialist"] * len(SOURCES)
