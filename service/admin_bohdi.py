"""The admin port: knowledge trees. Looking at them, and queuing what a worker does with them.

The gateway folds no log: it shows the files that whoever changes a tree leaves beside its log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from fastapi import FastAPI, Header, Query, Request, Response
from starlette.responses import FileResponse

from registry.bohdi_jobs import (
    BOHDI_EXPORT,
    BOHDI_RETIRE,
    BOHDI_ROUND,
    BOHDI_TRAFFIC,
    RetireArguments,
    RoundArguments,
    SetArguments,
    TrafficArguments,
)
from registry.bohdi_status import BohdiUnreadable, TreeMissing, TreeStatus, raw_events, read_status
from registry.bohdi_trees import EXPORTS, PICTURE_FILE, tree_folder, trees
from service.admin_body import answered, body_of, described, operator_of
from service.admin_queue import queued
from service.admin_routers import Reason
from service.errors import ApiError
from service.gateway import Gateway

T = TypeVar("T")

_MANIFEST = "manifest.json"


def add_bohdi(app: FastAPI, gateway: Gateway) -> None:
    """Add the endpoints under `/admin/bohdi`."""
    _add_looking(app, gateway.data_dir)
    _add_content(app, gateway.data_dir)
    _add_exports(app, gateway.data_dir)
    _add_jobs(app, gateway)


def _add_looking(app: FastAPI, data_dir: Path) -> None:
    @app.get("/admin/bohdi")
    async def listed() -> Response:
        """The knowledge trees, each in a few figures."""
        return answered({"trees": await _read(lambda: [_summary(data_dir, name) for name in trees(data_dir)])})

    @app.get("/admin/bohdi/{tree}")
    async def status(tree: str) -> Response:
        """A tree without its nodes: rounds, resets, judges, costs, traffic. `behind`: events that it lacks yet."""

        def look() -> dict[str, Any]:
            found, last = read_status(data_dir, tree), raw_events(data_dir, tree, 0, 0)[0]
            shown: dict[str, Any] = msgspec.to_builtins(found)
            del shown["nodes"]
            return shown | {"behind": last - found.events}

        return answered(await _read(look))

    @app.get("/admin/bohdi/{tree}/nodes")
    async def nodes(
        tree: str,
        parent: str | None = None,
        level: Annotated[int | None, Query(ge=1)] = None,
        state: Literal["active", "retired"] | None = None,
        after: int = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Response:
        """Domains with their posteriors, in the order in which they were added. `next`: what to give as `after`."""

        def look() -> dict[str, Any]:
            wanted = [
                (place, node)
                for place, node in enumerate(read_status(data_dir, tree).nodes, 1)
                if parent in (None, node.parent) and level in (None, node.level) and state in (None, node.status)
            ]
            left = [pair for pair in wanted if pair[0] > after]
            more = left[limit - 1][0] if len(left) > limit else None
            return {"nodes": [node for _, node in left[:limit]], "total": len(wanted), "next": more}

        return answered(await _read(look))


def _add_content(app: FastAPI, data_dir: Path) -> None:
    @app.get("/admin/bohdi/{tree}/events")
    async def events(tree: str, after: int = 0, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
        """The events of a tree's log, as they are stored: every question, answer, verdict, reward and cost."""
        last, rows = await _read(lambda: raw_events(data_dir, tree, after, limit))
        found = [{"n": number} | event for number, event in rows]
        more = rows[-1][0] if rows and rows[-1][0] < last else None
        return answered({"events": found, "last": last, "next": more})

    @app.get("/admin/bohdi/{tree}/picture")
    async def picture(tree: str) -> Response:
        """The picture of a tree (SVG), as its last round job has drawn it."""
        path = await _read(lambda: tree_folder(data_dir, tree) / PICTURE_FILE)
        if not path.is_file():
            raise ApiError(
                404, "not_found_error", "picture_not_found", f"No round job has drawn the tree {tree!r} yet."
            )
        return FileResponse(path, media_type="image/svg+xml")


def _add_exports(app: FastAPI, data_dir: Path) -> None:
    @app.get("/admin/bohdi/{tree}/exports")
    async def exports(tree: str) -> Response:
        """The manifests of a tree's training sets, newest first."""

        def look() -> list[dict[str, Any]]:
            paths = (tree_folder(data_dir, tree) / EXPORTS).glob(f"*/{_MANIFEST}")
            newest = sorted(paths, key=lambda path: (path.stat().st_mtime, path), reverse=True)
            return [{"name": path.parent.name} | msgspec.json.decode(path.read_bytes()) for path in newest]

        return answered({"exports": await _read(look)})

    @app.get("/admin/bohdi/{tree}/exports/{name}/{file}")
    async def file(tree: str, name: str, file: str) -> Response:
        """A file of a training set."""

        def look() -> Path | None:
            # Only what is listed: a name from outside never becomes a path.
            folder = tree_folder(data_dir, tree) / EXPORTS
            there = {(path.parent.name, path.name): path for path in folder.glob("*/*")}
            return there.get((name, file))

        path = await _read(look)
        if path is None:
            message = f"The tree {tree!r} has no file {name}/{file}; GET /admin/bohdi/{tree}/exports lists them."
            raise ApiError(404, "not_found_error", "export_not_found", message)
        return FileResponse(path, filename=f"{name}-{file}")


def _add_jobs(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/admin/bohdi/rounds", status_code=202, openapi_extra=described(RoundArguments))
    async def rounds(request: Request, idempotency_key: Annotated[str | None, Header()] = None) -> Response:
        """Queue rounds on a tree. With `settings` it is planted by them, or goes on by them."""
        wanted = await body_of(request, RoundArguments)
        return await _queued(gateway, BOHDI_ROUND, wanted, request, idempotency_key)

    @app.post("/admin/bohdi/export", status_code=202, openapi_extra=described(SetArguments))
    async def export(request: Request, idempotency_key: Annotated[str | None, Header()] = None) -> Response:
        """Queue the drawing of a training set."""
        wanted = await body_of(request, SetArguments)
        return await _queued(gateway, BOHDI_EXPORT, wanted, request, idempotency_key)

    @app.post("/admin/bohdi/traffic", status_code=202, openapi_extra=described(TrafficArguments))
    async def traffic(request: Request, idempotency_key: Annotated[str | None, Header()] = None) -> Response:
        """Queue the mapping of logged queries to a tree's leaves, by their vectors alone."""
        wanted = await body_of(request, TrafficArguments)
        return await _queued(gateway, BOHDI_TRAFFIC, wanted, request, idempotency_key)

    @app.post("/admin/bohdi/{tree}/nodes/{node}/retire", status_code=202, openapi_extra=described(Reason))
    async def retire(
        tree: str, node: str, request: Request, idempotency_key: Annotated[str | None, Header()] = None
    ) -> Response:
        """Queue that a domain and all below it go out of use for good."""
        body = await body_of(request, Reason)
        known = await _read(lambda: {one.id for one in read_status(gateway.data_dir, tree).nodes})
        if node not in known:
            message = f"The tree {tree!r} has no node {node!r}; GET /admin/bohdi/{tree}/nodes lists them."
            raise ApiError(404, "not_found_error", "node_not_found", message)
        stated = {} if body.reason is None else {"reason": body.reason}
        wanted = RetireArguments(tree=tree, node=node, **stated)
        return await _queued(gateway, BOHDI_RETIRE, wanted, request, idempotency_key)


async def _queued(
    gateway: Gateway,
    kind: str,
    wanted: RoundArguments | SetArguments | TrafficArguments | RetireArguments,
    request: Request,
    key: str | None,
) -> Response:
    await _read(lambda: tree_folder(gateway.data_dir, wanted.tree))
    return await queued(gateway, kind, wanted.to_json(), target=_target(wanted), by=operator_of(request), key=key)


def _target(wanted: RoundArguments | SetArguments | TrafficArguments | RetireArguments) -> str:
    """What only one job of the kind works on at a time: a tree, or a node of it."""
    return f"{wanted.tree}/{wanted.node}" if isinstance(wanted, RetireArguments) else wanted.tree


def _summary(data_dir: Path, name: str) -> dict[str, Any]:
    try:
        found = read_status(data_dir, name)
    except BohdiUnreadable as error:
        return {"tree": name, "unreadable": str(error)}
    return {"tree": name, **_figures(found)}


def _figures(found: TreeStatus) -> dict[str, Any]:
    return {
        "tenant": found.tenant,
        "target": found.target,
        "target_version": found.target_version,
        "sources": found.sources,
        "domains": sum(node.status == "active" for node in found.nodes),
        "rounds": len(found.rounds),
        "contests": found.contests,
        "resets": len(found.resets),
        "cost_usd": found.cost_usd,
        "unpriced_rounds": found.unpriced_rounds,
        "events": found.events,
    }


async def _read(look: Callable[[], T]) -> T:
    with _trees_told():
        return await asyncio.to_thread(look)


@contextmanager
def _trees_told() -> Iterator[None]:
    """What the files of a tree refuse, as errors of the API."""
    try:
        yield
    except TreeMissing as error:
        raise ApiError(404, "not_found_error", "tree_not_found", f"{error}.") from error
    except BohdiUnreadable as error:
        raise ApiError(503, "api_error", "tree_unreadable", f"{error}.") from error
    except msgspec.DecodeError as error:
        raise ApiError(503, "api_error", "tree_unreadable", f"A manifest cannot be read: {error}.") from error
    except ValueError as error:
        raise ApiError(400, "invalid_request_error", "invalid_value", f"{error}.", param="tree") from error
