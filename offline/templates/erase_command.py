"""`tokamak templates erase` and `explain`: what came from somebody is removed; why a request got what it got."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from offline.admin_client import DEFAULT_ADMIN, Admin, AdminUrl
from offline.templates.options import DATA_DIR, AsJson, DataDir, explaining, opened
from templates_store.erasure import erase
from templates_store.index_files import INDEX_FOLDER
from traffic.log import TrafficLog
from traffic.stores import open_log

RequestId = Annotated[str, typer.Argument(help="The id of a logged request, or of its answer.")]


@explaining
def erase_command(
    user: Annotated[str | None, typer.Option(help="The `user` of requests.")] = None,
    key: Annotated[str | None, typer.Option(help="The id of an API key.")] = None,
    interaction: Annotated[list[str] | None, typer.Option(help="The id of a logged request; may be repeated.")] = None,
    log: Annotated[str | None, typer.Option(help="Traffic log, a URL; the one in the data folder if left out.")] = None,
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Erase what was made from the requests of a user or a key, or from some requests: it is gone for good.

    Nothing is made from these requests again. Do this before the requests are removed from the log.
    """
    with opened(data_dir) as store, _log(log, data_dir) as traffic:
        gone = erase(
            store, user=user, key=key, interactions=interaction or (), log=traffic,
            index_folder=data_dir / INDEX_FOLDER,
        )  # fmt: skip
    if as_json:
        typer.echo(msgspec.json.encode(gone).decode())
        return
    for id_ in gone.template_ids:
        typer.echo(id_)
    typer.echo(f"{len(gone.template_ids)} templates of {gone.interactions} requests were erased", err=True)


@explaining
def explain_command(
    request: RequestId,
    template: Annotated[str | None, typer.Option(help="Say why this one was, or was not, in the prompt.")] = None,
    admin: AdminUrl = DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """Say why a logged request got the templates it got, by asking the running service."""
    found = Admin(admin).get(f"/admin/templates/explain/{request}", template=template)
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    typer.echo(f"{found['request']} was answered by {found['arm'] or 'no arm'}: {found['reason']}")
    for row in found["retrieved"]:
        typer.echo(f"{row['similarity']:.3f}  {row['id']}  {'used' if row['id'] in found['used'] else 'not used'}")
    if template is not None:
        typer.echo(f"{template}: {found['why']}")


@contextmanager
def _log(url: str | None, data_dir: Path) -> Iterator[TrafficLog | None]:
    """The log that is named, or the one in the data folder if there is one."""
    file = data_dir / "traffic.db"
    if url is None and not file.exists():
        yield None
        return
    log = open_log(url or f"sqlite:///{file}")
    try:
        yield log
    finally:
        asyncio.run(log.close())
