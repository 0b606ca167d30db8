"""A training set as files: what other tools read, whole or not at all, the same bytes every time."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from offline.bohdi.candidates import gather
from offline.bohdi.contamination import Benchmarks
from offline.bohdi.draw import Wanted, draw
from offline.bohdi.export import ExportError, export, read_examples, read_manifest, sets_in
from offline.bohdi.training_set import TrainingSet
from offline.distill.samples import read_conversations
from tests.bohdi.grown import LARGE, LEAVES, TARGET, path_of, two_rounds


def made(seed: int = 0) -> TrainingSet:
    leaves = [path_of(names)[-1] for names in LEAVES]
    return draw(
        gather(enumerate(two_rounds(), 1)),
        lambda count: [leaves[number % 4] for number in range(count)],
        Wanted(size=20, seed=seed, tree="shared"),
        Benchmarks(),
    )


def test_the_files_say_what_the_set_says(tmp_path: Path) -> None:
    import pyarrow.parquet

    whole = made()
    out = export(whole, tmp_path)
    assert out.name == whole.manifest.digest[:16]
    assert tuple(read_examples(out)) == whole.examples
    chats = [json.loads(line) for line in (out / "chat.jsonl").read_text().splitlines()]
    assert chats[0] == {
        "messages": [
            {"role": "user", "content": whole.examples[0].question},
            {"role": "assistant", "content": whole.examples[0].answer},
        ]
    }
    assert all(list(chat) == ["messages"] for chat in chats), "what OpenAI takes has no other keys"
    rows = pyarrow.parquet.read_table(out / "train.parquet").to_pylist()
    for row, example in zip(rows, whole.examples, strict=True):
        assert (row["question"], row["weight"]) == (example.question, example.weight)
        assert tuple(row["path"]) == example.provenance.path
        assert (row["model"], row["may_train"], row["licences"]) == (LARGE, True, ["apache-2.0"])
    assert any("自然科学" in row["path"] for row in rows)


def test_the_distillation_reads_what_no_licence_forbids(tmp_path: Path) -> None:
    whole = made()
    read = read_conversations(export(whole, tmp_path) / "conversations.jsonl")
    assert [one.reply for one in read] == [example.answer for example in whole.examples]
    assert [one.weight for one in read] == [example.weight for example in whole.examples]
    assert {one.domain for one in read} <= {names[0] for names in LEAVES}
    first, *others = whole.examples
    forbidden = msgspec.structs.replace(first, provenance=msgspec.structs.replace(first.provenance, may_train=False))
    changed = msgspec.structs.replace(whole, examples=(forbidden, *others))
    assert len(read_conversations(export(changed, tmp_path / "b") / "conversations.jsonl")) == len(others)


def test_pairs_are_in_the_formats_of_openai_and_of_trl(tmp_path: Path) -> None:
    import pyarrow.parquet

    whole = made()
    out = export(whole, tmp_path)
    lines = [json.loads(line) for line in (out / "preferences.jsonl").read_text().splitlines()]
    rows = pyarrow.parquet.read_table(out / "preferences.parquet").to_pylist()
    assert len(lines) == len(rows) == whole.manifest.pairs > 0
    for line, row in zip(lines, rows, strict=True):
        assert set(line) == {"input", "preferred_output", "non_preferred_output"}
        assert line["input"]["messages"][0]["content"] == row["prompt"]
        assert line["preferred_output"] == [{"role": "assistant", "content": row["chosen"]}]
        assert line["non_preferred_output"] == [{"role": "assistant", "content": row["rejected"]}]
        assert (row["chosen_model"], row["rejected_model"]) == (LARGE, TARGET)


def test_equal_sets_give_equal_bytes_and_one_folder(tmp_path: Path) -> None:
    first, second = export(made(), tmp_path / "a"), export(made(), tmp_path / "b")
    assert read_manifest(first) == read_manifest(second)
    assert export(made(), tmp_path / "a") == first
    export(made(seed=1), tmp_path / "a")
    assert len(sets_in(tmp_path / "a")) == 2
    assert sets_in(tmp_path / "nothing") == []


@pytest.mark.parametrize("name", ["chat.jsonl", "train.parquet"])
def test_an_export_that_was_changed_is_found_out(tmp_path: Path, name: str) -> None:
    out = export(made(), tmp_path)
    (out / name).write_bytes((out / name).read_bytes()[:-3])
    with pytest.raises(ExportError, match=name):
        read_examples(out)
    with pytest.raises(ExportError, match="export again"):
        export(made(), tmp_path)


def test_what_is_no_export_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no export"):
        read_manifest(tmp_path)
    out = export(made(), tmp_path)
    text = (out / "manifest.json").read_text()
    (out / "manifest.json").write_text(text.replace('"layout": 1', '"layout": 2'))
    with pytest.raises(ExportError, match="layout 2"):
        read_manifest(out)
