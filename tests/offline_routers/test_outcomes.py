from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec import structs

from encoders.features import FEATURE_SET, NAMES, Shape, query_features
from offline.outcomes import LoggedOutcomes, content_id, outcomes_from_log
from routers.protocol import TrainingError
from routers.rows import check
from tests.offline_routers.interactions import (
    ENCODER,
    HashEncoder,
    decision,
    feedback,
    interaction,
    score,
    written,
)
from traffic.records import Cascade, Feedback, Interaction, Score


async def learned(
    folder: Path, *records: Interaction | Feedback | Score, encoder: HashEncoder | None = None
) -> LoggedOutcomes:
    log = await written(folder, records)
    try:
        return outcomes_from_log(log, encoder)
    finally:
        await log.close()


async def test_scores_and_feedback_of_an_answer_become_its_mean_quality(tmp_path: Path) -> None:
    found = await learned(
        tmp_path,
        interaction(1, "a", "one", decision=decision("a", 0.25), workload="sums"),
        score(1, 1.0),
        feedback(1, 0.5),
        interaction(2, "b", "two"),
        feedback(2, False),
        feedback(2, True, "again"),
        feedback(2, "thank you", "words"),
    )
    outcomes = found.outcomes
    check(outcomes)
    assert outcomes.arms == ("a", "b")
    assert outcomes.query_ids == (content_id("one"), content_id("two"))
    assert outcomes.tasks == ("sums", "unlabelled")
    assert outcomes.encoder == ENCODER
    np.testing.assert_array_equal(outcomes.quality, np.array([[0.75, np.nan], [np.nan, 0.5]], dtype=np.float32))
    np.testing.assert_array_equal(outcomes.propensity, np.array([[0.25, np.nan], [np.nan, 1.0]], dtype=np.float32))
    assert outcomes.cost_usd[0, 0] == pytest.approx(0.002)
    assert outcomes.latency_s[1, 1] == pytest.approx(0.5)
    assert np.isnan(outcomes.cost_usd[0, 1])
    np.testing.assert_array_equal(outcomes.vectors, HashEncoder().encode(["one", "two"]))


async def test_feedback_that_a_scorer_turned_into_a_score_counts_once(tmp_path: Path) -> None:
    found = await learned(tmp_path, interaction(1, "a"), feedback(1, True), score(1, 0.25, "feedback"))
    assert found.outcomes.quality[0, 0] == pytest.approx(0.25)


async def test_the_same_text_asked_of_several_arms_is_one_row(tmp_path: Path) -> None:
    asked = [interaction(i, arm, "same") for i, arm in enumerate(("b", "a", "b"))]
    found = await learned(tmp_path, *asked, score(0, 1.0), score(1, 0.0), score(2, 0.5))
    assert found.outcomes.query_ids == (content_id("same"),)
    np.testing.assert_array_equal(found.outcomes.quality, np.array([[0.0, 0.75]], dtype=np.float32))


async def test_what_says_nothing_about_an_arm_is_left_out_and_counted(tmp_path: Path) -> None:
    found = await learned(
        tmp_path,
        interaction(1, "a"),
        score(1, 1.0),
        interaction(2, "a", "unscored"),
        interaction(3, "b", "fallback", decision=decision("a", 0.5)),
        score(3, 1.0),
        interaction(4, "b", "broken", outcome="failed"),
        score(4, 0.0),
        interaction(5, None, "rejected", outcome="rejected"),
        interaction(6, "b", None),
        score(6, 1.0),
        interaction(7, "b", "told again", cached_from="chatcmpl-1"),
        score(7, 1.0),
    )
    assert found.outcomes.arms == ("a",)
    left_out = {"unscored": 1, "fell_back": 1, "cascaded": 0, "unanswered": 2, "no_text": 1, "cached": 1}
    assert found.counts == {"read": 7, "used": 1, **left_out}


async def test_a_query_without_its_text_is_known_by_its_vector(tmp_path: Path) -> None:
    vector = HashEncoder().encode_one("secret").astype("<f4").tobytes()
    found = await learned(tmp_path, interaction(1, "a", None, vector=vector), score(1, 1.0))
    assert found.outcomes.query_ids == (content_id(vector),)
    np.testing.assert_array_equal(found.outcomes.vectors[0], HashEncoder().encode_one("secret"))


async def test_vectors_of_several_encoders_are_refused_or_made_anew_from_the_text(tmp_path: Path) -> None:
    other = "ffffffffffffffff"
    records = (
        interaction(1, "a", "one"),
        interaction(2, "a", "two", encoder=other),
        interaction(3, "b", "three", encoder=None, vector=None),
        interaction(4, "b", None, encoder=other, vector=HashEncoder().encode_one("four").tobytes()),
        *(score(i, 1.0) for i in range(1, 5)),
    )
    (tmp_path / "without").mkdir()
    with pytest.raises(TrainingError, match=rf"several encoders: {other} \(2\), {ENCODER} \(1\)"):
        await learned(tmp_path / "without", *records)
    found = await learned(tmp_path, *records, encoder=HashEncoder())
    assert found.outcomes.query_ids == tuple(content_id(text) for text in ("one", "two", "three"))
    np.testing.assert_array_equal(found.outcomes.vectors, HashEncoder().encode(["one", "two", "three"]))
    assert found.counts["no_text"] == 1


@pytest.mark.parametrize("value", [1.5, -0.1])
async def test_a_score_out_of_range_is_refused_by_name(tmp_path: Path, value: float) -> None:
    with pytest.raises(TrainingError, match=r"score of i-1 must lie in \[0, 1\]"):
        await learned(tmp_path, interaction(1, "a"), score(1, value))


async def test_a_log_without_scores_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="send feedback"):
        await learned(tmp_path, interaction(1, "a"))


async def test_a_window_reads_only_its_interactions(tmp_path: Path) -> None:
    records = (interaction(1, "a", "old"), interaction(5, "a", "new"), score(1, 1.0), score(5, 0.0))
    log = await written(tmp_path, records)
    found = outcomes_from_log(log, since=1003.0)
    await log.close()
    assert found.outcomes.query_ids == (content_id("new"),)


def block(number: float) -> bytes:
    return np.full(len(NAMES), number, dtype="<f4").tobytes()


async def test_feature_blocks_are_read_as_they_were_logged(tmp_path: Path) -> None:
    record = interaction(1, "a", "one", feature_set=FEATURE_SET, features=block(2.5))
    found = await learned(tmp_path, record, score(1, 1.0))
    assert found.outcomes.features is not None
    np.testing.assert_array_equal(found.outcomes.features, np.full((1, len(NAMES)), 2.5, dtype=np.float32))
    assert found.outcomes.feature_set == FEATURE_SET


async def test_feature_blocks_of_another_definition_are_made_anew_from_the_request(tmp_path: Path) -> None:
    body = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "one"}], "tools": [{}]}
    fields = {"workload": "sums", "request": msgspec.json.encode(body)}
    old = interaction(1, "a", "one", feature_set="older", features=block(2.5), **fields)
    found = await learned(tmp_path, old, score(1, 1.0))
    expected = query_features("one", Shape(1, True, True, False), "sums")
    assert found.outcomes.features is not None
    np.testing.assert_array_equal(found.outcomes.features[0], expected)
    unreadable = interaction(1, "a", "one", request=b"{not json")
    again = await learned(tmp_path / "second", unreadable, score(1, 1.0))
    assert again.outcomes.features is not None
    np.testing.assert_array_equal(again.outcomes.features[0], query_features("one"))


async def test_an_answer_that_a_cascade_let_pass_is_left_out(tmp_path: Path) -> None:
    passed = structs.replace(decision("a"), cascade=Cascade(signal="logprob", first="a", then="b", value=-0.1))
    records = [interaction(1, "a", "one", decision=passed), score(1, 1.0), interaction(2, "b", "two"), score(2, 0.5)]
    found = await learned(tmp_path, *records)
    assert found.outcomes.arms == ("b",)
    assert (found.counts["cascaded"], found.counts["used"]) == (1, 1)
