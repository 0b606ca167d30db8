"""A training set as files, for the distillation half and for anybody's trainer.

    chat.jsonl            {"messages": [user, assistant]}: what OpenAI's fine-tuning and most trainers take as it is
    conversations.jsonl   what `tokamak distill` reads: id, messages, domain, source, weight; without what is forbidden
    provenance.jsonl      chat.jsonl line for line: weight, origin, models, judges, versions, licences
    train.parquet         both in one table
    preferences.jsonl     OpenAI's preference format: input, preferred_output, non_preferred_output
    preferences.parquet   prompt, chosen, rejected (the columns of TRL), models, weight
    manifest.json         what the set is made of, with the SHA-256 of every file

The folder appears whole or not at all, is named by the set's digest, and never changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from offline.bohdi.training_set import Example, Manifest, Pair, Provenance, TrainingSet
from traffic.parquet_tables import Columns, record_file, sha256
from traffic.snapshot import new_folder

LAYOUT: Final = 1
MANIFEST: Final = "manifest.json"
CHAT, PROVENANCE, TRAIN = "chat.jsonl", "provenance.jsonl", "train.parquet"
CONVERSATIONS: Final = "conversations.jsonl"
PREFERENCES, PREFERENCE_TABLE = "preferences.jsonl", "preferences.parquet"

_TRAIN: Final[Columns] = {
    "question": "string", "answer": "string", "weight": "double", "step": "string", "round": "int32", "node": "string",
    "path": "strings", "model": "string", "model_version": "string", "target_version": "string",
    "prompts_version": "string", "method": "string", "agreement": "double", "checked": "bool", "reward": "double",
    "origin": "string", "cost_usd": "double", "style": "string", "licences": "strings", "may_train": "bool",
    "terms": "strings",
}  # fmt: skip
_PAIRS: Final[Columns] = {
    "prompt": "string", "chosen": "string", "rejected": "string", "step": "string", "chosen_model": "string",
    "rejected_model": "string", "weight": "double",
}  # fmt: skip

_encode = msgspec.json.Encoder().encode


class ExportError(ValueError):
    """An export is not what was written. The message says which file, and what to do."""


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `manifest.json`. `files`: SHA-256 by name."""

    layout: int
    set: Manifest
    files: dict[str, str]


def export(made: TrainingSet, folder: Path) -> Path:
    """Write the set below `folder`, into one named by its digest; returns that. One that is there is left alone.

    Raises
    ------
    ExportError: there is one of that name which is not what was written.
    LogError: pyarrow is missing.
    """
    out = folder / made.manifest.digest[:16]
    if out.exists():
        read_manifest(out)
        return out
    folder.mkdir(parents=True, exist_ok=True)
    with new_folder(out) as partial:
        _lines(partial / CHAT, (_chat(example) for example in made.examples))
        allowed = (example for example in made.examples if example.provenance.may_train is not False)
        _lines(partial / CONVERSATIONS, (_conversation(example) for example in allowed))
        _lines(partial / PROVENANCE, ({"weight": e.weight} | _fields(e.provenance) for e in made.examples))
        _table(partial / TRAIN, _TRAIN, (_row(example) for example in made.examples))
        _lines(partial / PREFERENCES, (_preference(pair) for pair in made.pairs))
        _table(partial / PREFERENCE_TABLE, _PAIRS, (_pair(pair) for pair in made.pairs))
        files = {path.name: sha256(path) for path in sorted(partial.iterdir())}
        manifest = Exported(layout=LAYOUT, set=made.manifest, files=files)
        (partial / MANIFEST).write_bytes(msgspec.json.format(_encode(manifest), indent=2) + b"\n")
    return out


def read_manifest(folder: Path) -> Exported:
    """The manifest of an export, every file of which is compared with its digest. Raises ExportError."""
    try:
        found = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Exported)
    except (OSError, msgspec.DecodeError) as error:
        raise ExportError(f"{folder} is no export: {MANIFEST} cannot be read ({error}); export again") from error
    if found.layout != LAYOUT:
        raise ExportError(f"{folder} has layout {found.layout}, this version knows {LAYOUT}; export again")
    for name, digest in found.files.items():
        path = folder / name
        if not path.is_file() or sha256(path) != digest:
            raise ExportError(f"{path} is absent or not what was written; delete the folder and export again")
    return found


def read_examples(folder: Path) -> list[Example]:
    """The examples of an export, in order. Raises ExportError."""
    read_manifest(folder)
    chats = (folder / CHAT).read_bytes().splitlines()
    facts = (folder / PROVENANCE).read_bytes().splitlines()
    return [_example(chat, fact) for chat, fact in zip(chats, facts, strict=True)]


def sets_in(folder: Path) -> list[str]:
    """The names of the exports in a folder, newest first."""
    manifests = sorted(folder.glob(f"*/{MANIFEST}"), key=lambda path: (path.stat().st_mtime, path), reverse=True)
    return [path.parent.name for path in manifests]


def _chat(example: Example) -> dict[str, Any]:
    answer = {"role": "assistant", "content": example.answer}
    return {"messages": [{"role": "user", "content": example.question}, answer]}


def _conversation(example: Example) -> dict[str, Any]:
    digest = hashlib.sha256("\0".join((example.question, example.answer)).encode()).hexdigest()
    facts = {"domain": example.provenance.path[0], "source": example.provenance.model, "weight": example.weight}
    return {"id": digest[:16]} | _chat(example) | facts


def _preference(pair: Pair) -> dict[str, Any]:
    return {
        "input": {"messages": [{"role": "user", "content": pair.question}], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [{"role": "assistant", "content": pair.chosen}],
        "non_preferred_output": [{"role": "assistant", "content": pair.rejected}],
    }


def _row(example: Example) -> dict[str, Any]:
    return {"question": example.question, "answer": example.answer, "weight": example.weight} | _fields(
        example.provenance
    )


def _pair(pair: Pair) -> dict[str, Any]:
    fields = _fields(pair)
    return fields | {"prompt": fields.pop("question")}


def _fields(record: msgspec.Struct) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(record)
    return built


def _example(chat: bytes, facts: bytes) -> Example:
    said = msgspec.json.decode(chat)["messages"]
    known = msgspec.json.decode(facts)
    weight = known.pop("weight")
    provenance = msgspec.convert(known, Provenance)
    return Example(question=said[0]["content"], answer=said[1]["content"], weight=weight, provenance=provenance)


def _lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("wb") as file:
        for row in rows:
            file.write(_encode(row) + b"\n")


def _table(path: Path, columns: Columns, rows: Iterable[dict[str, Any]]) -> None:
    table = record_file(path, columns)
    for row in rows:
        table.add(row, sum(len(value) for value in row.values() if isinstance(value, str)))
    table.close()
