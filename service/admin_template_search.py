"""The admin port: which templates a question gets and why not others; why a logged request got those it got."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from fastapi import FastAPI, Query, Request, Response
from numpy.typing import NDArray

from service.admin_body import answered, body_of, described
from service.admin_template_store import used
from service.errors import ApiError
from service.gateway import Gateway
from templates_store.choosing import Bounds, Selection, choose
from templates_store.index import load_index
from templates_store.store import ERASED, Change, TemplateStore
from templates_store.template import Template
from traffic.records import Interaction

_SCANNED = 20_000
"""Templates that are looked at, at most, for what the filters kept out."""
_TOLD = 10


class SearchBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question as a client with the key `tenant` would ask it. What is left out is as the service is configured."""

    query: Annotated[str, msgspec.Meta(min_length=1)]
    tenant: str | None = None
    k: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None
    min_similarity: Annotated[float, msgspec.Meta(ge=-1, le=1)] | None = None


def add_search(app: FastAPI, gateway: Gateway) -> None:
    """Add search and explain."""

    @app.post("/admin/templates/search", openapi_extra=described(SearchBody))
    async def search(request: Request) -> Response:
        """The templates for a question, what became of the near ones, and what the filters kept out before."""
        wanted = await body_of(request, SearchBody)
        vector = await gateway.serving.encode(wanted.query)
        bounds = _bounds(gateway, wanted.k, wanted.min_similarity)

        def look(store: TemplateStore) -> dict[str, Any]:
            selection = _chosen(gateway, store, vector, wanted.tenant, bounds)
            hits = [{"id": h.template.id, "similarity": h.similarity, "text": h.template.text} for h in selection.hits]
            return {"hits": hits, **_told(selection)} | _kept_out(
                store, vector, gateway.serving.encoder.hash, wanted.tenant
            )

        return answered(await used(gateway, look))

    @app.get("/admin/templates/explain/{request_id}")
    async def explain(request_id: str, template: Annotated[str | None, Query()] = None) -> Response:
        """Why a logged request got the templates it got, and, with `template`, why it did or did not get that one."""
        record = await gateway.log.interaction(request_id)
        if record is None:
            raise ApiError(
                404, "not_found_error", "request_not_found", f"The request {request_id!r} is not in the log."
            )
        bounds = _bounds(gateway, None, None)

        def look(store: TemplateStore) -> dict[str, Any]:
            vector = _vector(record, gateway)
            found: dict[str, Any] = {
                "request": record.id, "tenant": record.key_id, "arm": record.arm, "used": record.template_ids,
                "retrieved": [{"id": i, "similarity": s} for i, s in record.retrieved], "withheld": record.withheld,
                "reason": _reason(record),
            }  # fmt: skip
            if template is not None:
                found |= {"template": template, "why": _why(store, template, record, vector, bounds)}
            if vector is not None:
                found["now"] = _told(_chosen(gateway, store, vector, record.key_id, bounds))
            return found

        return answered(await used(gateway, look))


def _bounds(gateway: Gateway, k: int | None, floor: float | None) -> Bounds:
    settings = gateway.config.templates
    return Bounds(
        max(settings.retrieve, k or 0),
        settings.top_k if k is None else k,
        gateway.floor(gateway.serving) if floor is None else floor,
        settings.max_tokens,
    )


def _chosen(
    gateway: Gateway, store: TemplateStore, vector: NDArray[np.float32], tenant: str | None, bounds: Bounds
) -> Selection:
    """From the index that serves; from one made for this call where no arm takes templates, and so none is served."""
    index = gateway.serving.templates or load_index(store, gateway.serving.encoder.hash)
    return choose(index, vector, tenant, bounds)


def _told(selection: Selection) -> dict[str, Any]:
    return {"floor": selection.floor, "considered": [near._asdict() for near in selection.considered]}


def _kept_out(store: TemplateStore, vector: NDArray[np.float32], encoder: str, tenant: str | None) -> dict[str, Any]:
    """The nearest templates that a filter keeps out before any ranking, and which one."""
    nearest: list[tuple[float, str, str]] = []
    after, seen = None, 0
    while seen < _SCANNED and (part := store.page(after=after, limit=1_000)):
        after, seen = part[-1].id, seen + len(part)
        for template in part:
            filter_ = _filter(template, encoder, tenant)
            if filter_ is not None:
                # What another encoder made cannot be compared; such templates come last.
                near = -2.0 if filter_ == "encoder" else float(np.frombuffer(template.vector, "<f4") @ vector)
                nearest.append((near, template.id, filter_))
        nearest = heapq.nlargest(_TOLD, nearest)
    kept_out = [{"id": i, "similarity": None if s < -1.5 else s, "filter": f} for s, i, f in nearest]
    return {"kept_out": kept_out, "looked_at_all": seen < _SCANNED}


def _filter(template: Template, encoder: str, tenant: str | None) -> str | None:
    if template.encoder != encoder:
        return "encoder"
    if template.state != "active":
        return f"state: {template.state}"
    return "tenant" if template.tenant is not None and template.tenant != tenant else None


def _vector(record: Interaction, gateway: Gateway) -> NDArray[np.float32] | None:
    if record.vector is None or record.encoder != gateway.serving.encoder.hash:
        return None
    return np.frombuffer(record.vector, dtype="<f4").astype(np.float32)


def _reason(record: Interaction) -> str:
    if record.template_ids:
        return "the templates were in the prompt"
    if record.withheld:
        return "a control: templates were found and withheld, to measure what they do"
    if record.retrieved:
        return f"templates were found, but {record.arm or 'no arm'} was asked, which takes none"
    if record.vector is None:
        return "no template was looked for: no arm that takes any could answer"
    return "no template was near enough, or no arm that takes any could answer"


def _why(
    store: TemplateStore, id_: str, record: Interaction, vector: NDArray[np.float32] | None, bounds: Bounds
) -> str:
    """The first thing that decided it, of what the log and the store know."""
    similarities = dict(record.retrieved)
    if id_ in record.template_ids:
        return "it was in the prompt"
    if id_ in similarities:
        near = f"it was found with a similarity of {similarities[id_]:.3f}"
        return (
            f"{near} and withheld as a control" if record.withheld else f"{near}, but {record.arm} takes no templates"
        )
    history = store.history(id_)
    template = store.get(id_)
    if template is None:
        return "it was erased" if history else "there is no such template"
    if not any(change.at <= record.created_at for change in history):
        return "it was added after the request"
    state = _state_then(template, history, record.created_at)
    if state != "active":
        return f"it was {state} when the request came"
    if template.tenant is not None and template.tenant != record.key_id:
        return "it was built from the traffic of another key"
    if record.encoder is not None and template.encoder != record.encoder:
        return "its vector is of another encoder than the request's"
    if vector is None:
        return "the log has no vector of the request that it could be compared with"
    similarity = float(np.frombuffer(template.vector, "<f4") @ vector)
    if similarity < bounds.floor:
        return f"its similarity of {similarity:.3f} is below the floor of {bounds.floor:.3f}"
    return (
        f"its similarity is {similarity:.3f}: others ranked above it, it did not fit into {bounds.max_tokens} tokens, "
        "or no arm that takes templates could answer"
    )


def _state_then(template: Template, history: Sequence[Change], at: float) -> str:
    """The state that a template was in. What state it was added in is told by what it is, or by its first change."""
    moves = [change for change in history if change.event not in ("added", "embedded", ERASED)]
    before = [change.event for change in moves if change.at <= at]
    if before:
        return before[-1]
    if not moves:
        return template.state
    return "a candidate" if moves[0].event == "active" else "active"
