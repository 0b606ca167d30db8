"""The result file keeps the contract of every benchmark and refuses figures that were not measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.result_file import write_result


def test_a_written_file_holds_the_whole_contract(tmp_path: Path) -> None:
    path = write_result("speed", "make bench-speed", [{"words": 20, "us": 3.5}], {"p50_us": 3.5}, tmp_path)
    record = json.loads(path.read_text())
    assert path == tmp_path / "speed.json"
    assert record["command"] == "make bench-speed"
    assert record["rows"] == [{"words": 20, "us": 3.5}]
    assert record["bar"] == {"p50_us": 3.5}
    assert record["machine"]["cores"] >= 1
    assert record["machine"]["memory_gib"] > 0
    assert "python" in record["machine"]["versions"]
    assert record["commit"]
    assert [p.name for p in tmp_path.iterdir()] == ["speed.json"]


@pytest.mark.parametrize("figure", [float("nan"), float("inf"), None, "fast"])
def test_a_figure_that_is_no_number_is_refused(tmp_path: Path, figure: object) -> None:
    with pytest.raises(ValueError, match="p50_us"):
        write_result("speed", "make bench-speed", [{"a": 1}], {"p50_us": figure}, tmp_path)  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "../speed", "a/b"])
def test_a_name_with_a_path_in_it_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="plain file name"):
        write_result(name, "make bench-speed", [{"a": 1}], {}, tmp_path)


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rows"):
        write_result("speed", "make bench-speed", [], {}, tmp_path)
