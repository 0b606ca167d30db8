"""`tokamak curate`: the data set of a distillation, from the traffic log, from files of answers, from Bohdi."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, get_args

import msgspec
import typer

from offline.answers import Answer, answers_from_file, answers_from_log
from offline.bohdi.contamination import read_benchmarks
from offline.commands import DATA_DIR, AsJson, DataDir, Log, Since, log_url
from offline.curate import Curated, Curation, CurationError, Setting, curate, from_bohdi, write_conversations
from offline.explaining import explaining
from traffic.stores import open_log


@explaining
def curate_command(
    out: Annotated[Path, typer.Argument(help="Where the conversations go (JSONL).")],
    log: Log = None,
    data_dir: DataDir = DATA_DIR,
    since: Since = 0.0,
    answers: Annotated[list[Path] | None, typer.Option(help="Files of scored answers instead of the log.")] = None,
    bohdi: Annotated[list[Path] | None, typer.Option(help="Exports of `tokamak bohdi export` to add.")] = None,
    setting: Annotated[str, typer.Option(help="performance, judge, hybrid or reference.")] = "hybrid",
    top: Annotated[int, typer.Option(help="Answers of each query at most.")] = 3,
    per_task: Annotated[int | None, typer.Option(help="Queries of each task at most.")] = None,
    licence: Annotated[list[str] | None, typer.Option(help="MODEL=NAME, the licence of a model's answers.")] = None,
    unstated: Annotated[bool, typer.Option(help="Take models whose licence nobody has stated.")] = False,
    workload: Annotated[list[str] | None, typer.Option(help="Workloads (globs) that all keys may share.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Take the private traffic of this key.")] = None,
    benchmark: Annotated[list[Path] | None, typer.Option(help="Files of questions that must stay unseen.")] = None,
    as_json: AsJson = False,
) -> None:
    """Choose the best right answers to train a target model on, and say what was left out and why.

    Traffic of a key is its own: name the workloads that are shared, or one key by --tenant.
    """
    if setting not in get_args(Setting):
        raise CurationError(f"expected a setting of {', '.join(get_args(Setting))}, got {setting!r}")
    wanted = msgspec.convert(
        {
            "setting": setting, "top": top, "per_task": per_task, "licences": _licences(licence or []),
            "unstated": unstated, "tenant": tenant,
        },
        Curation,
    )  # fmt: skip
    found = [one for folder in bohdi or [] for one in from_bohdi(folder, unstated=unstated)]
    looked = answers is not None or log is not None or not found
    made = Curated(conversations=[], left_out={}, by_task={}, by_source={})
    if looked:
        read: Iterator[Answer] = (
            chain.from_iterable(answers_from_file(path) for path in answers)
            if answers
            else answers_from_log(open_log(log_url(log, data_dir)), since=since, shared_workloads=tuple(workload or ()))
        )
        made = curate(read, wanted, read_benchmarks(benchmark) if benchmark else None)
    count = write_conversations(out, [*made.conversations, *found])
    if as_json:
        told = {"written": count, "from_bohdi": len(found), "left_out": made.left_out, "by_task": made.by_task}
        typer.echo(msgspec.json.encode(told | {"by_source": made.by_source}).decode())
        return
    typer.echo(f"{out}: {count} conversations, {len(found)} of them from Bohdi")
    for reason, number in sorted(made.left_out.items()):
        if number:
            typer.echo(f"  left out: {number} ({reason})")


def _licences(stated: list[str]) -> dict[str, tuple[str, ...]]:
    """Raises CurationError: an option is not MODEL=NAME."""
    found: dict[str, tuple[str, ...]] = {}
    for one in stated:
        model, mark, name = one.partition("=")
        if not mark or not model or not name:
            raise CurationError(f"expected --licence MODEL=NAME, got {one!r}")
        found[model] = (*found.get(model, ()), name)
    return found
