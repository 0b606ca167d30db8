"""`tokamak templates ...`: look at thought templates, take them out of use, move them between stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from encoders.catalogue import load_encoder
from offline.templates.build_command import build_command
from offline.templates.erase_command import erase_command, explain_command
from offline.templates.options import DATA_DIR, AsJson, DataDir, EncoderName, Tenant, explaining, opened
from offline.templates.worth_commands import calibrate_floor_command, worth_command
from templates_store.create import TemplateRejected, create_template
from templates_store.database import TemplateStoreError
from templates_store.index import load_index, re_embed
from templates_store.index_files import INDEX_FOLDER
from templates_store.live_index import reindex
from templates_store.store import TemplateStore
from templates_store.template import State, Template
from templates_store.worth import bring_back

templates_app = typer.Typer(no_args_is_help=True, help="Build, look at and manage thought templates.")

templates_app.command("build")(build_command)
templates_app.command("erase")(erase_command)
templates_app.command("explain")(explain_command)
templates_app.command("worth")(worth_command)
templates_app.command("calibrate-floor")(calibrate_floor_command)

Id = Annotated[str, typer.Argument(help="The template's id, or a beginning of it that only one has.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Why; kept in the template's history.")]


@templates_app.command("list")
@explaining
def list_command(
    state: Annotated[str | None, typer.Option(help="candidate, active, quarantined or retired.")] = None,
    tenant: Tenant = None,
    task: Annotated[str | None, typer.Option(help="Only those of this task.")] = None,
    builder: Annotated[str | None, typer.Option(help="Only those of this builder, as `show` names it.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="No more than so many.")] = None,
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """List the templates, oldest first."""
    with opened(data_dir) as store:
        chosen = store.templates(state=None if state is None else _state(state), tenant=tenant)
        counts = store.counts()
    found = [made for made in chosen if task in (None, made.task) and builder in (None, made.builder)][:limit]
    if as_json:
        for template in found:
            typer.echo(_json(template))
        return
    table = Table("id", "state", "tenant", "builder", "question", box=None, header_style="bold")
    for template in found:
        question = " ".join(template.query.split())[:70]
        table.add_row(template.id, template.state, template.tenant or "all", template.builder, question)
    Console().print(table)
    typer.echo(", ".join(f"{count} {name}" for name, count in counts.items()) or "no templates", err=True)


@templates_app.command("show")
@explaining
def show_command(id_: Id, data_dir: DataDir = DATA_DIR, as_json: AsJson = False) -> None:
    """Show one template with where it comes from and what happened to it."""
    with opened(data_dir) as store:
        template = _find(store, id_)
        changes = store.history(template.id)
        worth = store.worth().get(template.id)
    if as_json:
        shown = _fields(template) | {"history": [change._asdict() for change in changes], "worth": worth}
        typer.echo(msgspec.json.encode(shown).decode())
        return
    for name in ("id", "state", "tenant", "task", "builder", "encoder", "query", "text"):
        typer.echo(f"{name:13} {getattr(template, name) or '-'}")
    typer.echo(f"{'models':13} {', '.join(template.source_models) or '-'}")
    typer.echo(f"{'interactions':13} {', '.join(template.interactions) or '-'}")
    if worth is not None and worth.uplift is not None:
        ends = f"[{worth.low:+.3f}, {worth.high:+.3f}]"
        typer.echo(f"{'worth':13} uplift {worth.uplift:+.3f} {ends}, shown {worth.shown}, control {worth.control}")
    for change in changes:
        typer.echo(f"{'version':13} {change.version}: {change.event}{f' ({change.reason})' if change.reason else ''}")


@templates_app.command("add")
@explaining
def add_command(
    query: Annotated[str, typer.Option(help="A typical question that the template helps with.")],
    text: Annotated[str, typer.Option(help="The plan: kind of problem, steps, form of the answer.")],
    tenant: Tenant = None,
    task: Annotated[str | None, typer.Option(help="Name of the task, for reports.")] = None,
    encoder: EncoderName = "static",
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Add a template by hand; prints its id. What is unsafe in the text is taken out first, and that is said."""
    template = create_template(load_encoder(encoder), query, text, builder="hand", tenant=tenant, task=task)
    with opened(data_dir, make=True) as store:
        new = store.add(template)
    if template.text != " ".join(text.split()):
        typer.echo(f"the text was made safe: {template.text}", err=True)
    if as_json:
        typer.echo(msgspec.json.encode(_fields(template) | {"created": new}).decode())
    else:
        typer.echo(template.id if new else f"{template.id} (was there already)")


@templates_app.command("quarantine")
@explaining
def quarantine_command(id_: Id, reason: Reason = None, data_dir: DataDir = DATA_DIR, as_json: AsJson = False) -> None:
    """Take a template out of use until `activate` brings it back."""
    _move(data_dir, id_, "quarantined", reason, as_json)


@templates_app.command("approve")
@explaining
def approve_command(id_: Id, reason: Reason = None, data_dir: DataDir = DATA_DIR, as_json: AsJson = False) -> None:
    """Put a candidate into use."""
    activate_command(id_, reason, data_dir, as_json)


@templates_app.command("activate")
@explaining
def activate_command(id_: Id, reason: Reason = None, data_dir: DataDir = DATA_DIR, as_json: AsJson = False) -> None:
    """Put a candidate or a quarantined template into use. What was measured of it before counts no more."""
    with opened(data_dir) as store:
        template = bring_back(store, _find(store, id_).id, reason)
    _tell(template, as_json)


@templates_app.command("retire")
@explaining
def retire_command(id_: Id, reason: Reason = None, data_dir: DataDir = DATA_DIR, as_json: AsJson = False) -> None:
    """Take a template out of use for good."""
    _move(data_dir, id_, "retired", reason, as_json)


@templates_app.command("search")
@explaining
def search_command(
    query: Annotated[str, typer.Argument(help="A question, as a client would ask it.")],
    k: Annotated[int, typer.Option("-k", min=1, help="At most so many.")] = 3,
    min_similarity: Annotated[float, typer.Option(min=-1, max=1, help="Least similarity.")] = 0.5,
    tenant: Tenant = None,
    encoder: EncoderName = "static",
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Show which templates a question would get."""
    reader = load_encoder(encoder)
    with opened(data_dir) as store:
        index = load_index(store, reader.hash)
    hits = index.search(reader.encode_one(query), k, min_similarity, tenant)
    for hit in hits:
        if as_json:
            shown = {"id": hit.template.id, "similarity": hit.similarity, "text": hit.template.text}
            typer.echo(msgspec.json.encode(shown).decode())
        else:
            typer.echo(f"{hit.similarity:.3f}  {hit.template.id}  {hit.template.text}")
    if not hits:
        other = f"; {index.left_out} are of another encoder (`tokamak templates reembed`)" if index.left_out else ""
        typer.echo(f"none of {len(index)} templates has a similarity of {min_similarity} or more{other}", err=True)


@templates_app.command("reembed")
@explaining
def reembed_command(encoder: EncoderName = "static", data_dir: DataDir = DATA_DIR, as_json: AsJson = False) -> None:
    """Give all templates the vectors of another encoder."""
    with opened(data_dir) as store:
        count = re_embed(store, load_encoder(encoder))
    _count(count, f"{count} templates were embedded anew", as_json)


@templates_app.command("reindex")
@explaining
def reindex_command(encoder: EncoderName = "static", data_dir: DataDir = DATA_DIR, as_json: AsJson = False) -> None:
    """Make the index files anew from the records, each of which is checked. The index holds nothing of its own."""
    with opened(data_dir) as store:
        count = reindex(store, load_encoder(encoder).hash, data_dir / INDEX_FOLDER)
    _count(count, f"{count} templates are in the index {data_dir / INDEX_FOLDER}", as_json)


@templates_app.command("export")
@explaining
def export_command(
    file: Annotated[Path, typer.Argument(help="JSON-lines file to write.")],
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Write all templates to a file, one JSON object per line."""
    with opened(data_dir) as store:
        found = store.templates()
    partial = file.with_name(f"{file.name}.partial")
    partial.write_bytes(b"".join(msgspec.json.encode(template) + b"\n" for template in found))
    partial.replace(file)
    _count(len(found), f"{len(found)} templates written to {file}", as_json)


@templates_app.command("import")
@explaining
def import_command(
    file: Annotated[Path, typer.Argument(help="JSON-lines file, as `export` writes it.")],
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Add the templates of a file: all of them, or none if one is not valid. Those that are there stay as they are."""
    decoder = msgspec.json.Decoder(Template)
    templates = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        if line.strip():
            try:
                templates.append(decoder.decode(line))
            except msgspec.DecodeError as error:
                raise TemplateRejected(f"line {number} of {file} is no template: {error}") from error
    with opened(data_dir, make=True) as store:
        new = store.add_all(templates)
    _count(new, f"{new} templates added, {len(templates) - new} were there already", as_json)


def _move(data_dir: Path, id_: str, state: State, reason: str | None, as_json: bool) -> None:
    with opened(data_dir) as store:
        template = store.set_state(_find(store, id_).id, state, reason)
    _tell(template, as_json)


def _tell(template: Template, as_json: bool) -> None:
    typer.echo(_json(template) if as_json else f"{template.id} is {template.state}")


def _find(store: TemplateStore, start: str) -> Template:
    """The template whose id is or begins with `start`. Raises TemplateStoreError unless there is exactly one."""
    exact = store.get(start)
    if exact is not None:
        return exact
    found = [template for template in store.templates() if start and template.id.startswith(start)]
    if len(found) == 1:
        return found[0]
    if found:
        raise TemplateStoreError(f"{len(found)} templates have an id that begins with {start!r}; give more of it")
    raise TemplateStoreError(f"no template has the id {start!r}; `tokamak templates list` shows those there are")


def _state(name: str) -> State:
    for state in ("candidate", "active", "quarantined", "retired"):
        if name == state:
            return state
    raise TemplateRejected(f"a state is candidate, active, quarantined or retired, not {name!r}")


def _count(count: int, told: str, as_json: bool) -> None:
    typer.echo(msgspec.json.encode({"templates": count}).decode() if as_json else told)


def _json(template: Template) -> str:
    return msgspec.json.encode(_fields(template)).decode()


def _fields(template: Template) -> dict[str, Any]:
    return {name: getattr(template, name) for name in template.__struct_fields__ if name != "vector"}
