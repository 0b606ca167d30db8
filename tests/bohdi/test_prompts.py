"""Prompt sets: read from files, versioned by their content, and deaf to what is filled in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from offline.bohdi.prompts import BUILT_IN, NEEDED, PLACEHOLDERS, PromptsUnreadable, read_prompts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(BUILT_IN / "standard", tmp_path / "own")
    return tmp_path / "own"


@pytest.mark.parametrize("name", ["standard", "tiny"])
def test_the_built_in_sets_are_whole(name: str) -> None:
    prompts = read_prompts(name)
    assert prompts.version.startswith(f"{name}@")
    for kind in PLACEHOLDERS:
        if kind in NEEDED or prompts.judges:
            assert prompts.text(kind, **dict.fromkeys(PLACEHOLDERS[kind], "x"))


def test_the_standard_set_can_judge_and_asks_for_code_tables_and_cases() -> None:
    prompts = read_prompts("standard")
    assert prompts.judges
    assert prompts.chooses
    assert len(prompts.reading.styles) >= 6
    assert {"code", "table", "case"} <= set(" ".join(prompts.reading.styles).replace(",", "").split())
    assert prompts.level(1) != prompts.level(2) != prompts.level(3) == prompts.level(7)


def test_a_change_of_any_file_changes_the_version(folder: Path) -> None:
    before = read_prompts(str(folder)).version
    assert before.partition("@")[2] == read_prompts("standard").version.partition("@")[2]
    (folder / "ask.txt").write_text((folder / "ask.txt").read_text() + "Be brief.\n")
    after = read_prompts(str(folder)).version
    assert after != before
    (folder / "notes.md").write_text("not part of the set")
    assert read_prompts(str(folder)).version == after


def test_what_is_filled_in_is_not_read_for_placeholders_again() -> None:
    prompts = read_prompts("standard")
    code = "f'{question} {tag}' {\n} $x %s {0}"
    assert prompts.text("answer", question=code) == code
    text = prompts.text("compare", question=code, first="{second}", second="{first}", left="AB", right="CD", tag="t")
    assert "[t solution AB]\n{second}\n[t end]" in text
    assert code in text


def test_what_is_wrong_with_a_set_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PromptsUnreadable, match="there is no prompt set 'odd'; built in are standard, tiny"):
        read_prompts("odd")
    (folder / "ask.txt").write_text("Ask about {topic}")
    with pytest.raises(PromptsUnreadable, match=r"ask.txt names \{topic\}; it may use \{leaf\}, \{path\}, \{style\}"):
        read_prompts(str(folder))
    (folder / "ask.txt").write_bytes(b"\xff")
    with pytest.raises(PromptsUnreadable, match="is not UTF-8"):
        read_prompts(str(folder))
    (folder / "ask.txt").unlink()
    with pytest.raises(PromptsUnreadable, match=r"has no ask.txt; add it"):
        read_prompts(str(folder))
    (folder / "ask.txt").write_text("Ask.")
    (folder / "set.yaml").write_text("ask: {max_token: 5}")
    with pytest.raises(PromptsUnreadable, match=r"set.yaml: .*max_token"):
        read_prompts(str(folder))


def test_a_set_without_comparisons_cannot_judge(folder: Path) -> None:
    (folder / "compare.txt").unlink()
    assert not read_prompts(str(folder)).judges
