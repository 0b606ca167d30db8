"""The whole laboratory on miniature pools: whatever file comes, it runs, says what it left out, and adds up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.routing_lab.bench import Bench, cells_of, run_cells
from benchmarks.routing_lab.contenders import Cap, Contender, contenders
from benchmarks.routing_lab.kept import Cell
from benchmarks.routing_lab.pools import Pool, PoolError, billions, pools_of, read_pool, sampled, small, without_dearest
from benchmarks.routing_lab.splits import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, parts, unseen_tasks
from benchmarks.routing_lab.summary import Row, bar_of, rows_of
from benchmarks.routing_lab.trial import Trial
from encoders.catalogue import load_encoder
from encoders.protocol import Encoder
from tests.benchmarks.miniature import ARMS, answers, written

ROUTERS = ("cluster", "knn")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("static")


@pytest.fixture(scope="module")
def pool(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("pool")
    return read_pool(written(answers(), folder / "mini.parquet"), encoder, folder / "kept")


@pytest.fixture(scope="module")
def run(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[Cell, Trial | str], list[Row]]:
    bench = Bench(tmp_path_factory.mktemp("trials"), seeds=2, workers=2)
    found = run_cells(bench, pool, cells_of(pool, contenders(ROUTERS), bench.seeds))
    return found, rows_of(pool, found, resamples=500)


def row(rows: list[Row], router: str, split: str = IN_DISTRIBUTION) -> Row:
    return next(each for each in rows if each["router"] == router and each["split"] == split)


def test_every_contender_has_a_row_of_both_kinds_and_the_rulers_are_in_order(
    run: tuple[dict[Cell, Trial | str], list[Row]],
) -> None:
    _, rows = run
    assert not [each["failed"] for each in rows if "failed" in each]
    assert {each["split"] for each in rows} == {IN_DISTRIBUTION, OUT_OF_DISTRIBUTION}
    single, oracle, table = (row(rows, name)["score"] for name in ("best single", "oracle", "task table"))
    assert row(rows, "random")["score"] < single < table < oracle
    assert row(rows, "oracle")["gap_closed"] == pytest.approx(1.0)
    assert row(rows, "best single")["v_b"] == 1.0


def test_routers_find_what_there_is_to_find_and_their_gains_have_intervals(
    run: tuple[dict[Cell, Trial | str], list[Row]],
) -> None:
    _, rows = run
    for name in ROUTERS:
        found = row(rows, name)
        assert found["gain_best_single_lo"] <= found["gain_best_single"] <= found["gain_best_single_hi"]
        assert found["gain_best_single_lo"] > 0.0
        assert found["gain_best_single"] == pytest.approx(found["score"] - row(rows, "best single")["score"], abs=0.02)
        assert found["seeds"] == 2
        assert found["bytes"] > 0
        assert 0.0 <= found["ece"] < 0.3


def test_no_router_offers_more_for_its_price_than_the_oracle_or_the_best_one_less_than_mixing_single_models(
    run: tuple[dict[Cell, Trial | str], list[Row]],
) -> None:
    _, rows = run
    aiq = {each["router"]: each["aiq"] for each in rows if each["split"] == IN_DISTRIBUTION}
    assert max(aiq.values()) == aiq["oracle"]
    assert aiq["cluster"] > aiq["best single"] > aiq["random"]
    for scenario in ("performance", "balanced", "cost"):
        best = row(rows, "oracle")[f"reward_{scenario}"]
        assert all(best >= each[f"reward_{scenario}"] for each in rows if each["split"] == IN_DISTRIBUTION)


def test_the_bar_is_what_the_rows_say(run: tuple[dict[Cell, Trial | str], list[Row]]) -> None:
    _, rows = run
    bar = bar_of(rows, "cluster")
    assert bar["mini.ours"] == row(rows, "cluster")["score"]
    assert bar["mini.minus_best_single_lo"] == row(rows, "cluster")["gain_best_single_lo"]
    assert bar["mini.aiq"] == row(rows, "cluster")["aiq"]
    assert bar["mini.ood_oracle"] == row(rows, "oracle", OUT_OF_DISTRIBUTION)["score"]
    assert "mini.best_published" not in bar


def test_a_second_run_takes_what_is_kept_and_a_changed_pool_does_not(pool: Pool, tmp_path: Path) -> None:
    bench = Bench(tmp_path, seeds=1, workers=1)
    cells = cells_of(pool, contenders(("cluster",)), 1)
    run_cells(bench, pool, cells)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert len(made) == len(cells)
    run_cells(bench, pool, cells)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")} == made
    one = next(iter(made))
    one.unlink()
    run_cells(bench, pool, cells)
    assert one.is_file()
    changed = replace(pool, outcomes=replace(pool.outcomes, quality=1.0 - pool.outcomes.quality))
    assert not {cell.key for cell in cells} & {cell.key for cell in cells_of(changed, contenders(("cluster",)), 1)}


def test_a_router_that_fails_is_named_in_its_row_and_costs_nobody_else_anything(pool: Pool, tmp_path: Path) -> None:
    broken = Contender("broken", "router", "prior", refitted=True)
    found = run_cells(Bench(tmp_path, 1, workers=1), pool, cells_of(pool, [*contenders(("cluster",)), broken], 1))
    rows = rows_of(pool, found, resamples=100)
    assert "has no settings" in row(rows, "broken")["failed"]
    assert "score" not in row(rows, "broken")
    assert row(rows, "cluster")["score"] > 0


def test_a_cap_is_written_into_the_row(pool: Pool, tmp_path: Path) -> None:
    slow = Contender("slow", "published", "knn", cap=Cap(seeds=1, train_queries=60))
    found = run_cells(Bench(tmp_path, 2, workers=1), pool, cells_of(pool, [*contenders(("cluster",)), slow], 2))
    rows = rows_of(pool, found, resamples=100)
    capped = row(rows, "slow")
    assert (capped["seeds"], capped["train_queries"], capped["best_published"]) == (1, 60, True)
    assert row(rows, "cluster")["seeds"] == 2
    assert "gain_best_published" in row(rows, "cluster")
    assert "gain_best_published" not in capped


def test_no_query_is_on_both_sides_and_equal_texts_are_one_query(encoder: Encoder, tmp_path: Path) -> None:
    rows = answers(200)
    again = [row | {"query_id": f"again-{row['query_id']}", "task": "twice"} for row in rows[: 4 * 20]]
    twice = read_pool(written(rows + again, tmp_path / "twice.parquet"), encoder, tmp_path).outcomes
    assert len(twice.query_ids) == 200
    for kind in (IN_DISTRIBUTION, OUT_OF_DISTRIBUTION):
        for seed in range(5):
            split = parts(twice, kind, seed)
            assert split is not None
            training, test = (set(part.texts or ()) for part in split)
            assert training
            assert test
            assert not training & test
            assert len(training | test) == 200


def test_the_test_part_is_a_quarter_and_differs_by_seed(pool: Pool) -> None:
    tests = []
    for seed in range(5):
        split = parts(pool.outcomes, IN_DISTRIBUTION, seed)
        assert split is not None
        tests.append(frozenset(split[1].query_ids))
        assert 0.17 < len(tests[-1]) / len(pool.outcomes.query_ids) < 0.33
    assert len(set(tests)) == 5


def test_out_of_distribution_whole_tasks_are_unseen() -> None:
    tasks = {f"task-{number}" for number in range(14)}
    assert {len(unseen_tasks(tasks, seed)) for seed in range(5)} == {5}
    assert len({unseen_tasks(tasks, seed) for seed in range(5)}) == 5
    assert len(unseen_tasks({"a", "b"}, 0)) == 1


def test_a_pool_of_one_task_has_no_split_out_of_distribution(encoder: Encoder, tmp_path: Path) -> None:
    pool = read_pool(written(answers(150, tasks=1), tmp_path / "one.parquet"), encoder, tmp_path)
    assert parts(pool.outcomes, OUT_OF_DISTRIBUTION, 0) is None
    found = run_cells(Bench(tmp_path / "t", 1, workers=1), pool, cells_of(pool, contenders(("cluster",)), 1))
    assert {cell.kind for cell in found} == {IN_DISTRIBUTION}
    assert "one.ood_ours" not in bar_of(rows_of(pool, found, 100), "cluster")


def test_a_pool_without_tasks_costs_or_ids_runs(encoder: Encoder, tmp_path: Path) -> None:
    bare = [{name: row[name] for name in ("query", "model", "score")} for row in answers(150)]
    pool = read_pool(written(bare, tmp_path / "bare.parquet"), encoder, tmp_path)
    assert not pool.priced
    found = run_cells(Bench(tmp_path / "t", 1, workers=1), pool, cells_of(pool, contenders(("cluster",)), 1))
    cluster = row(rows_of(pool, found, 100), "cluster")
    assert cluster["score"] > 0
    assert not {"aiq", "reward_balanced", "usd_per_1000"} & set(cluster)


def test_arms_that_answered_few_queries_are_left_out_with_a_note(encoder: Encoder, tmp_path: Path) -> None:
    rows = [row for row in answers(200) if row["model"] != "large-70b" or int(row["query_id"][1:]) < 60]
    rows = [row for row in rows if (row["model"], row["query_id"]) != ("tiny-7b", "q7")]
    pool = read_pool(written(rows, tmp_path / "gaps.parquet"), encoder, tmp_path)
    assert pool.outcomes.arms == ("frontier", "middle-13b", "tiny-7b")
    assert len(pool.outcomes.query_ids) == 199
    assert not np.isnan(pool.outcomes.quality).any()
    assert pool.notes == (
        "1 of 4 arms left out: they answered too few queries",
        "1 of 200 queries left out: not every arm answered them",
    )


def test_where_no_arm_answered_nearly_all_those_with_most_answers_in_common_are_kept(
    encoder: Encoder, tmp_path: Path
) -> None:
    keep = {"tiny-7b": range(300), "middle-13b": range(130), "large-70b": range(120), "frontier": range(200, 300)}
    rows = [row for row in answers(300) if int(row["query_id"][1:]) in keep[row["model"]]]
    pool = read_pool(written(rows, tmp_path / "sparse.parquet"), encoder, tmp_path)
    assert pool.outcomes.arms == ("large-70b", "middle-13b", "tiny-7b")
    assert len(pool.outcomes.query_ids) == 120


def test_one_answer_per_query_is_no_pool_and_says_so(encoder: Encoder, tmp_path: Path) -> None:
    rows = [row for row in answers(300) if int(row["query_id"][1:]) % 4 == ARMS.index(row["model"])]
    with pytest.raises(PoolError, match="a pool needs 100 queries that the same 2 arms answered"):
        read_pool(written(rows, tmp_path / "logged.parquet"), encoder, tmp_path)


def test_a_pair_is_judged_by_what_it_recovers(encoder: Encoder, tmp_path: Path) -> None:
    pool = read_pool(written(answers(300, arms=2), tmp_path / "pair.parquet"), encoder, tmp_path)
    found = run_cells(Bench(tmp_path / "t", 1, workers=1), pool, cells_of(pool, contenders(("cluster",)), 1))
    rows = rows_of(pool, found, 100)
    assert row(rows, "best single")["apgr"] == pytest.approx(0.5)
    assert 0.5 < row(rows, "cluster")["apgr"] < row(rows, "oracle")["apgr"]
    assert 0.0 < row(rows, "oracle")["cpt_80"] < row(rows, "cluster")["cpt_80"] < 1.0


def test_pools_made_of_a_pool(pool: Pool, encoder: Encoder, tmp_path: Path) -> None:
    tiny = small(pool)
    assert tiny is not None
    assert (tiny.name, tiny.outcomes.arms) == ("mini_small", ("middle-13b", "tiny-7b"))
    cheaper = without_dearest(pool)
    assert cheaper is not None
    assert "frontier" not in cheaper.outcomes.arms
    assert without_dearest(replace(pool, priced=False)) is None
    assert len(sampled(pool, 100).outcomes.query_ids) == 100
    assert sampled(pool, 100_000) is pool
    named = list(pools_of(written(answers(150), tmp_path / "routerbench_sub.parquet"), encoder, tmp_path / "kept"))
    assert [each.name for each in named] == ["routerbench_sub", "routerbench_sub_without_dearest"]


def test_what_is_kept_of_a_pool_is_the_pool(pool: Pool, encoder: Encoder, tmp_path: Path) -> None:
    path = written(answers(), tmp_path / "mini.parquet")
    first, second = (read_pool(path, encoder, tmp_path / "kept") for _ in range(2))
    assert first.fingerprint == second.fingerprint == pool.fingerprint
    assert first.outcomes.texts == second.outcomes.texts


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Meta-Llama-3_1-70B-Instruct", 70.0),
        ("Mixtral-8x7B-v0.1", 56.0),
        ("gemma-2-2b-it", 2.0),
        ("qwen2.5-0.5b", 0.5),
        ("Llama-2-13b-hf", 13.0),
        ("Phi-3-mini-4k-instruct", None),
        ("gpt-4o-2024-05-13", None),
        ("mathstral-7B", 7.0),
    ],
)
def test_sizes_by_name(name: str, size: float | None) -> None:
    assert billions(name) == size
