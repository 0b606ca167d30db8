"""From the log to the worth of templates: are the harmful ones found, the harmless left alone, and brought back?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from offline.answers import question_key
from offline.outcomes import outcomes_from_log
from offline.templates.floor import NoFloor, calibrate
from offline.templates.trials import LoggedTrials, questions_of, trials_from_log
from offline.templates.worth import apply, measure, measured
from routers.protocol import F32
from templates_store.store import STORE_FILE, TemplateStore
from templates_store.template import Template, Worth
from templates_store.worth import (
    DEFAULT_FLOOR,
    FLOOR_FILE,
    Floor,
    FloorUnreadable,
    bring_back,
    factor,
    read_floor,
    unmeasured,
    write_floor,
)
from tests.off_policy.logs import decision
from tests.offline_routers.interactions import ENCODER, HashEncoder, interaction, score, written
from tests.templates.trials import dealt, traffic
from tests.templates.words import template
from traffic.records import Interaction, Score

HELPS, IDLE, HARMS = (template(f"question of kind {name}", f"{text}.") for name, text in (
    ("a", "Problem: one. Steps: First do this, then that. Answer: say it in one word, please, and nothing else at all"),
    ("b", "Problem: two. Steps: First do this, then that. Answer: say it in one word, please, and nothing else at all"),
    ("c", "Problem: three. Steps: First do this, then that. Answer: say it in a word, please, and nothing else at all"),
))  # fmt: skip
TEMPLATES = {each.id: each for each in (HELPS, IDLE, HARMS)}
EFFECTS = {HELPS.id: 0.3, IDLE.id: 0.0, HARMS.id: -0.4}


def right(company: Sequence[str], shown: bool) -> float:
    return min(max(0.5 + shown * sum(EFFECTS[id_] for id_ in company), 0.0), 1.0)


async def logged(folder: Path, records: Iterable[Interaction | Score], **window: Any) -> LoggedTrials:
    log = await written(folder, list(records))
    try:
        return trials_from_log(log, **window)
    finally:
        await log.close()


async def test_only_requests_that_could_go_either_way_count(tmp_path: Path) -> None:
    near = ((HELPS.id, 0.9),)
    certain = decision("m#thought", {"m#thought": 1.0})
    other = decision("m#think", {"m#think": 0.2, "m#thought": 0.4, "m": 0.4})
    records = [
        *dealt(1, near, 1.0, shown=True),
        *dealt(2, near, 0.0, shown=False),
        *dealt(3, (), 0.0, shown=False),
        *dealt(4, near, 0.0, shown=True, decision=None),
        *dealt(5, near, 0.0, shown=True, decision=certain),
        *dealt(6, near, 0.0, shown=True, outcome="failed"),
        dealt(7, near, 0.0, shown=True)[0],
        *dealt(8, near, 0.0, shown=True, arm="elsewhere"),
        interaction(9, "m#think", model="m", retrieved=near, decision=other), score(9, 1.0),
    ]  # fmt: skip
    found = await logged(tmp_path, records)
    assert found.counts == {
        "read": 9, "used": 2, "no_templates": 1, "unanswered": 1, "cached": 0, "pinned": 1, "unscored": 1,
        "fell_back": 1, "cascaded": 0, "other_arm": 1, "no_chance": 1, "near_duplicate": 0,
    }  # fmt: skip
    assert found.trials.shown.tolist() == [True, False]
    assert found.trials.chance == pytest.approx([0.5, 0.5])
    assert found.trials.score.tolist() == [1.0, 0.0]


async def test_templates_of_nearly_the_same_question_say_nothing_of_others(tmp_path: Path) -> None:
    records = [
        *dealt(1, ((HELPS.id, 0.9), (IDLE.id, 0.8)), 1.0, shown=True),
        *dealt(2, ((HELPS.id, 0.9), (IDLE.id, 0.97)), 1.0, shown=True),
        *dealt(3, ((HELPS.id, 0.9699), (IDLE.id, 0.8)), 0.0, shown=False),
        *dealt(4, ((HELPS.id, 1.0),), 0.0, shown=False),
    ]
    found = await logged(tmp_path, records)
    assert (found.counts["used"], found.counts["near_duplicate"]) == (2, 2)
    assert found.similarity.max() < 0.97
    rows = {row.id: row.worth for row in measure(found, TEMPLATES).templates}
    assert (rows[HELPS.id].shown, rows[HELPS.id].control) == (1, 1)


async def test_the_question_that_a_template_was_made_from_does_not_measure_it(tmp_path: Path) -> None:
    asked = "Write to ann@example.org: how far is it?"
    own: dict[str, Any] = {"text": f"  {asked.upper()} ", "key_id": "ann"}
    near = ((HELPS.id, 0.8),)
    records = [
        *dealt(1, near, 1.0, shown=True, **own),
        *dealt(2, near, 0.0, shown=False, **own),
        *dealt(3, near, 1.0, shown=True, text="How far is it?", key_id="ann"),
        *dealt(4, near, 0.0, shown=False, text=asked, key_id="ben"),
        *dealt(5, ((IDLE.id, 0.8),), 0.0, shown=False, **own),
    ]
    with TemplateStore(tmp_path / STORE_FILE) as store:
        store.add(msgspec.structs.replace(HELPS, tenant="ann", query_keys=(question_key(asked, "ann"),)))
        found = await logged(tmp_path / "log", records, made_from=questions_of(store))
    assert (found.counts["used"], found.counts["near_duplicate"]) == (3, 2)
    assert [found.templates[place] for place in found.template] == [HELPS.id, HELPS.id, IDLE.id]


async def test_a_control_is_an_observation_of_the_direct_arm_with_its_propensity(tmp_path: Path) -> None:
    near = ((HELPS.id, 0.9),)
    records = [*dealt(1, near, 1.0, shown=False, share=0.05), *dealt(2, near, 0.0, shown=True, share=0.05)]
    log = await written(tmp_path, records)
    outcomes = outcomes_from_log(log, HashEncoder()).outcomes
    await log.close()

    def cells(matrix: F32) -> dict[str, float]:
        known = np.nanmax(matrix, axis=0).tolist()
        return dict(zip(outcomes.arms, known, strict=True))

    assert cells(outcomes.propensity) == pytest.approx({"m": 0.05, "m#thought": 0.95})
    assert cells(outcomes.quality) == {"m": 1.0, "m#thought": 0.0}


async def test_worth_is_counted_and_the_harmful_one_named(tmp_path: Path) -> None:
    found = measure(await logged(tmp_path, traffic([[id_] for id_ in TEMPLATES], right, 1500)), TEMPLATES, now=3000.0)
    assert [row.id for row in found.quarantined] == [HARMS.id]
    rows = {row.id: row.worth for row in found.templates}
    for id_, effect in EFFECTS.items():
        worth = rows[id_]
        assert worth.shown + worth.control == 500
        assert worth.uplift == pytest.approx(effect, abs=0.15)
        assert worth.low is not None
        assert worth.high is not None
        assert worth.low <= effect <= worth.high
        assert worth.wins + worth.losses <= worth.shown
    helps, idle, harms = (factor(rows[id_]) for id_ in EFFECTS)
    assert helps == 1.5
    assert harms == 0.5 < idle < helps
    (arm,) = found.arms
    assert arm.name == "m#thought"
    assert arm.estimate is not None
    assert arm.estimate.low < -1 / 30 < arm.estimate.high
    assert sum(cluster.shown for cluster in found.clusters) == arm.shown


async def test_a_harmless_one_is_not_blamed_for_its_company(tmp_path: Path) -> None:
    companies = [[HARMS.id, IDLE.id], [HARMS.id, IDLE.id], [IDLE.id], [HARMS.id]]
    found = measure(await logged(tmp_path, traffic(companies, right, 1600)), TEMPLATES)
    assert [row.id for row in found.quarantined] == [HARMS.id]
    idle = next(row for row in found.templates if row.id == IDLE.id)
    # What it is judged by now are the requests that had it alone.
    assert idle.worth.shown + idle.worth.control == 400


async def test_quarantine_is_recorded_and_activation_is_a_fresh_start(tmp_path: Path) -> None:
    records = list(traffic([[HARMS.id]], right, 400))
    with TemplateStore(tmp_path / STORE_FILE) as store:
        store.add_all(TEMPLATES.values())
        trials = await logged(tmp_path, records)
        assert apply(store, measured(store, trials), quarantine=False) == []
        report = measured(store, trials)
        assert apply(store, report) == [HARMS.id]
        assert store.get(HARMS.id) == msgspec.structs.replace(HARMS, state="quarantined")
        assert (store.history(HARMS.id)[-1].reason or "").startswith("worth: changes the score by -0.")
        assert store.worth()[HARMS.id].shown > 100
        assert measured(store, trials).templates == []
        assert bring_back(store, HARMS.id, "the model is another one").state == "active"
        assert factor(store.worth()[HARMS.id]) == 1.0
        # What was logged before says nothing any more, and nothing quarantines it anew.
        assert measured(store, trials).templates == []


async def test_looking_often_changes_no_verdict(tmp_path: Path) -> None:
    trials = await logged(tmp_path, traffic([[IDLE.id]], right, 300))
    assert measure(trials, TEMPLATES, now=5.0) == measure(trials, TEMPLATES, now=5.0)
    assert measure(trials, {}, now=5.0).templates == []


def similar(n: int, seed: int = 0) -> Iterable[Interaction | Score]:
    """Templates help from a similarity of 0.7 on, and harm below."""

    def at(number: int) -> float:
        return 0.5 + 0.4 * (number % 10) / 9.0

    for number in range(n):
        effect = 0.3 if at(number) >= 0.7 else -0.2

        def chance(company: Sequence[str], shown: bool, effect: float = effect) -> float:
            return 0.5 + effect * shown

        yield from traffic([[IDLE.id]], chance, 1, seed=seed + number, similarity=at(number), start=number)


async def test_the_floor_is_where_templates_begin_to_help(tmp_path: Path) -> None:
    found = calibrate(await logged(tmp_path, similar(4000)), ENCODER)
    assert found.floor.min_similarity == pytest.approx(0.5 + 0.4 * 5 / 9)
    assert found.floor.low > 0.0
    assert [level.uplift for level in found.levels] == sorted(level.uplift for level in found.levels)
    write_floor(tmp_path, found.floor)
    assert read_floor(tmp_path) == found.floor


async def test_without_enough_data_there_is_no_floor_and_it_is_said_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NoFloor, match=r"at least 200 and 40 are needed, so \d+ and \d+ more"):
        calibrate(await logged(tmp_path, similar(50)), ENCODER)
    idle = await logged(tmp_path / "idle", traffic([[IDLE.id]], right, 600))
    with pytest.raises(NoFloor, match="at no similarity"):
        calibrate(idle, ENCODER)
    with pytest.raises(NoFloor, match="too few"):
        calibrate(idle, "another encoder")
    own = await logged(tmp_path / "own", traffic([[HELPS.id]], right, 600, similarity=0.98))
    with pytest.raises(NoFloor, match=r"0 scored requests with templates \(near duplicates left out\)"):
        calibrate(own, ENCODER)


def test_a_floor_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert read_floor(tmp_path) is None
    (tmp_path / FLOOR_FILE).write_text("{}")
    with pytest.raises(FloorUnreadable, match="calibrate-floor"):
        read_floor(tmp_path)
    floor = Floor(min_similarity=0.8, encoder=ENCODER, uplift=0.1, low=0.01, high=0.2, exposures=9, calibrated_at=1.0)
    write_floor(tmp_path, floor)
    assert read_floor(tmp_path) == floor
    assert DEFAULT_FLOOR == 0.7


@pytest.mark.parametrize(
    ("expected", "times"), [(None, 1.0), (0.0, 1.0), (0.06, 1.3), (0.9, 1.5), (-0.04, 0.8), (-1.0, 0.5)]
)
def test_the_factor_of_worth_by_hand(expected: float | None, times: float) -> None:
    worth: Worth = msgspec.structs.replace(unmeasured(), expected=expected)
    assert factor(worth) == pytest.approx(times)
    assert factor(None) == 1.0


def test_template_records_of_before_are_read(tmp_path: Path) -> None:
    made: Template = HELPS
    with TemplateStore(tmp_path / STORE_FILE) as store:
        store.add(made)
        store.set_worth({made.id: unmeasured(3.0)})
        assert store.worth() == {made.id: unmeasured(3.0)}
