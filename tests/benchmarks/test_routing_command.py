"""The laboratory's command, its pictures, its page and what it takes from other benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path

import orjson
import pytest

from benchmarks import routing
from benchmarks.routing_lab.contenders import contenders, default_router, source_digest
from benchmarks.routing_lab.literature import REPORTED
from benchmarks.routing_lab.page import BEGIN, END, PAGE, RESULT, page_with, read_result, tables
from benchmarks.routing_lab.sisters import sister_figures
from benchmarks.routing_lab.speed import logged_world, measure
from routers.catalogue import PLACES
from routers.rows import check
from tests.benchmarks.miniature import answers, written


def test_a_quick_run_on_unknown_files_writes_a_result_and_a_picture_and_says_what_it_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(routing, "CACHE", tmp_path)
    monkeypatch.setenv("TOKAMAK_SHARED_DATA", str(tmp_path / "nothing"))
    files = [written(answers(240), tmp_path / "mini.parquet"), written(answers(30), tmp_path / "few.parquet")]
    named = [part for path in files for part in ("--pool", str(path))]
    monkeypatch.setattr(sys, "argv", ["routing", "--quick", "--router", default_router(), "--workers", "1", *named])
    routing.main()
    assert "few.parquet left out: 30 queries" in capsys.readouterr().err
    found = orjson.loads((tmp_path / "results" / "routing.json").read_bytes())
    assert {"mini.best_single", "mini.ours", "mini.oracle", "mini.ood_ours", "ece_max"} <= found["bar"].keys()
    assert [row["pool"] for row in found["rows"] if row.get("about") == "pool"] == ["mini"]
    assert "0.01 is one point" in found["notes"]["units"]
    assert f"| mini, 4 models | {found['bar']['mini.best_single']:.4f} |" in tables(found)
    picture = (tmp_path / "results" / "mini.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 60_000


def test_the_page_shows_what_the_result_file_says() -> None:
    assert PAGE.read_text() == page_with(tables(read_result())), "run `python -m benchmarks.routing --page`"


def test_the_page_has_a_picture_of_every_pool() -> None:
    page = PAGE.read_text()
    pools = [row["pool"] for row in read_result(RESULT)["rows"] if row.get("about") == "pool"]
    assert pools
    for pool in pools:
        assert f"(images/routing/{pool}.png)" in page
        assert (PAGE.parent / "images" / "routing" / f"{pool}.png").stat().st_size < 60_000


def test_the_page_names_every_router() -> None:
    text = PAGE.read_text().partition(BEGIN)[0]
    for name in PLACES:
        assert f"`{name}`" in text or f"`-{name.removeprefix('published-')}`" in text, name


def test_a_page_without_its_markers_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="lacks the lines"):
        page_with("tables", page)
    page.write_text(f"before {BEGIN} old {END} after")
    assert page_with("new", page) == f"before {BEGIN}\n\nnew\n{END} after"


def test_figures_of_other_benchmarks_are_read_with_their_commit_or_left_out(tmp_path: Path) -> None:
    assert sister_figures(tmp_path) == ({}, {})
    content = {
        "bar": {"ope_coverage": 0.95, "other": 1.0},
        "commit": "abc",
        "command": "python -m benchmarks.off_policy",
    }
    (tmp_path / "off_policy.json").write_bytes(orjson.dumps(content))
    figures, sources = sister_figures(tmp_path)
    assert figures == {"ope_coverage": 0.95}
    assert sources == {"off_policy": "read from off_policy.json: python -m benchmarks.off_policy at commit abc"}


def test_speed_is_measured_on_a_log_of_one_answer_per_query() -> None:
    world = logged_world(400, 6)
    check(world)
    assert ((world.quality == world.quality).sum(axis=1) == 1).all()
    found = measure("cluster", answers=400, arms=6, calls=20)
    assert found["fit_s"] > 0
    assert found["predict_us"] > 0
    assert found["peak_mib"] > 10
    assert (found["answers"], found["arms"]) == (400, 6)


def test_what_a_result_depends_on_is_the_source_of_its_router_alone() -> None:
    codes = {contender.name: contender.code for contender in contenders(("cluster", "knn"))}
    assert len({codes["cluster"], codes["knn"], codes["random"]}) == 3
    assert source_digest(["routers.classic.cluster"]) != source_digest(
        ["routers.classic.cluster"], unread=("routers.estimators.kmeans",)
    )
    with pytest.raises(ValueError, match="no router is called nonsense"):
        contenders(("nonsense",))


def test_what_papers_report_has_its_source() -> None:
    assert all(reported.source and reported.figures for reported in REPORTED)
