"""The admin port: thought templates. Looking at them, taking them in and out of use, building and erasing."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Header, Query, Request, Response

from registry.job_kinds import BUILD_TEMPLATES, TEMPLATE_WORTH, BuildArguments, WorthArguments
from service.admin_body import answered, body_of, described, operator_of, told
from service.admin_queue import queued
from service.admin_routers import Reason
from service.admin_template_files import add_files
from service.admin_template_search import add_search
from service.admin_template_store import found_template, shown_template, templates_told, used
from service.errors import ApiError, invalid, nearest
from service.gateway import Gateway
from templates_store.create import create_template
from templates_store.erasure import erase
from templates_store.index_files import INDEX_FOLDER
from templates_store.store import TemplateStore
from templates_store.template import State, Template
from templates_store.worth import bring_back

MOVES: dict[str, State] = {"approve": "active", "activate": "active", "quarantine": "quarantined", "retire": "retired"}
"""What is called how: `approve` is for candidates, `activate` for what was quarantined; both do the same."""
_SCANNED = 20_000
"""Templates that one call of the list looks at, at most, for a filter that the store has no index of."""


class NewTemplate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A template by hand: a typical question, and the plan. `tenant` is the id of an API key; None is everybody."""

    query: str
    text: str
    tenant: str | None = None
    task: str | None = None
    state: State = "active"


class Erasure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose templates are to be erased: one of a user, a key's id, or an interaction's id."""

    user: str | None = None
    key: str | None = None
    interaction: str | None = None


def add_templates(app: FastAPI, gateway: Gateway) -> None:
    """Add the endpoints under `/admin/templates`."""
    # The paths of one word look like ids to the routes after them.
    _add_build(app, gateway)
    _add_erasure(app, gateway)
    add_search(app, gateway)
    add_files(app, gateway)
    _add_list(app, gateway)
    _add_changes(app, gateway)


def _add_list(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/admin/templates")
    async def listed(
        state: State | None = None,
        tenant: str | None = None,
        task: str | None = None,
        builder: str | None = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Response:
        """Templates, oldest first. `next` is what to give as `after` for more; null at the end."""

        def page(store: TemplateStore) -> dict[str, Any]:
            rows, cursor, scanned = list[Template](), after, 0
            while scanned < _SCANNED:
                part = store.page(state=state, tenant=tenant, after=cursor, limit=1000)
                for template in part:
                    cursor, scanned = template.id, scanned + 1
                    if task in (None, template.task) and builder in (None, template.builder):
                        rows.append(template)
                    if len(rows) == limit:
                        break
                if len(rows) == limit or len(part) < 1000:
                    break
            more = bool(rows or scanned == _SCANNED) and bool(
                store.page(state=state, tenant=tenant, after=cursor, limit=1)
            )
            listing = {"templates": [shown_template(row) for row in rows], "next": cursor if more else None}
            return listing | {"counts": store.counts(), "version": store.version()}

        return answered(await used(gateway, page))

    @app.get("/admin/templates/{template_id}")
    async def one(template_id: str) -> Response:
        """A template with where it comes from, what happened to it and what it is worth."""

        def look(store: TemplateStore) -> dict[str, Any]:
            template = found_template(store, template_id)
            history = [change._asdict() for change in store.history(template_id)]
            return shown_template(template) | {"history": history, "worth": store.worth().get(template_id)}

        return answered(await used(gateway, look))

    @app.post("/admin/templates", status_code=201, openapi_extra=described(NewTemplate))
    async def add(request: Request) -> Response:
        """Add a template by hand. What is unsafe in the text is taken out first, and `changed` says if anything was."""
        wanted = await body_of(request, NewTemplate)
        encoder = gateway.serving.encoder

        def put(store: TemplateStore) -> tuple[Template, bool]:
            template = create_template(
                encoder, wanted.query, wanted.text, builder="hand", state=wanted.state, tenant=wanted.tenant,
                task=wanted.task,
            )  # fmt: skip
            return template, store.add(template)

        template, new = await used(gateway, put)
        changed = template.text != " ".join(wanted.text.split())
        body = {"template": shown_template(template), "created": new, "changed": changed}
        return answered(body, 201 if new else 200, location=f"/admin/templates/{template.id}")


def _add_changes(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/admin/templates/{template_id}/{move}", openapi_extra=described(Reason))
    async def moved(template_id: str, move: str, request: Request) -> Response:
        """`approve` or `activate`, `quarantine`, or `retire` (which is for good) a template."""
        if move not in MOVES:
            raise ApiError(404, "not_found_error", "unknown_move", f"There is {', '.join(MOVES)}; not {move!r}.")
        body = await body_of(request, Reason)
        reason = f"{operator_of(request)}: {body.reason}" if body.reason else f"by {operator_of(request)}"

        def change(store: TemplateStore) -> Template:
            found_template(store, template_id)
            if MOVES[move] == "active":
                return bring_back(store, template_id, reason)
            return store.set_state(template_id, MOVES[move], reason)

        return answered(shown_template(await used(gateway, change)))


def _add_build(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/admin/templates/build", status_code=202, openapi_extra=described(BuildArguments))
    async def build(request: Request, idempotency_key: Annotated[str | None, Header()] = None) -> Response:
        """Queue a build from the traffic log. With `dry_run` it only says what it would take."""
        wanted = await body_of(request, BuildArguments)
        if wanted.model is not None and wanted.model not in gateway.config.models:
            hint = nearest(wanted.model, gateway.config.models) or f" There are {', '.join(gateway.config.models)}."
            raise invalid(f"No model is called {wanted.model!r}.{hint}", "model")
        return await queued(
            gateway, BUILD_TEMPLATES, wanted.to_json(), target="templates", by=operator_of(request), key=idempotency_key
        )

    @app.post("/admin/templates/worth", status_code=202, openapi_extra=described(WorthArguments))
    async def worth(request: Request, idempotency_key: Annotated[str | None, Header()] = None) -> Response:
        """Queue the measuring of what templates are worth; those that do harm are quarantined."""
        wanted = await body_of(request, WorthArguments)
        return await queued(
            gateway, TEMPLATE_WORTH, wanted.to_json(), target="templates", by=operator_of(request), key=idempotency_key
        )

    @app.post("/admin/templates/reindex")
    async def reindex() -> Response:
        """Make the index anew from the records, each of which is checked, and serve from it."""
        with told(), templates_told():
            count = await gateway.reindex_templates()
        return answered({"templates": count})


def _add_erasure(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/admin/templates/erase", openapi_extra=described(Erasure))
    async def erased(request: Request) -> Response:
        """Erase what was made from the requests of a user or of a key, or from one request; it is gone for good."""
        wanted = await body_of(request, Erasure)
        with told():
            await gateway.log.flush()
        gone = await used(
            gateway,
            lambda store: erase(
                store, user=wanted.user, key=wanted.key,
                interactions=() if wanted.interaction is None else (wanted.interaction,),
                log=gateway.log, index_folder=gateway.data_dir / INDEX_FOLDER,
            ),
        )  # fmt: skip
        return answered(gone)
