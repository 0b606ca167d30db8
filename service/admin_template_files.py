"""The admin port: templates as JSON lines, out of one store and into another."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.responses import StreamingResponse

from service.admin_body import answered
from service.admin_template_store import used
from service.errors import ApiError, invalid
from service.gateway import Gateway
from templates_store.opening import open_store
from templates_store.template import Template

_PAGE = 500


def add_files(app: FastAPI, gateway: Gateway) -> None:
    """Add export and import."""

    @app.get("/admin/templates/export")
    async def export() -> Response:
        """All templates, one JSON object a line, as `tokamak templates export` writes them."""
        return StreamingResponse(_lines(gateway), media_type="application/jsonl")

    @app.post("/admin/templates/import")
    async def bring(request: Request) -> Response:
        """Add the templates of JSON lines: all, or none if one is not valid. Those that are there stay as they are."""
        body = await _bounded(request, gateway.max_body_bytes)
        templates = _read(body)
        added = await used(gateway, lambda store: store.add_all(templates))
        return answered({"added": added, "there_already": len(templates) - added})


def _lines(gateway: Gateway) -> Iterator[bytes]:
    with open_store(gateway.data_dir, gateway.config.templates.url) as store:
        after: str | None = None
        while True:
            part = store.page(after=after, limit=_PAGE)
            yield b"".join(msgspec.json.encode(template) + b"\n" for template in part)
            if len(part) < _PAGE:
                return
            after = part[-1].id


def _read(body: bytes) -> list[Template]:
    decoder, templates = msgspec.json.Decoder(Template), list[Template]()
    for number, line in enumerate(body.splitlines(), 1):
        if line.strip():
            try:
                templates.append(decoder.decode(line))
            except msgspec.DecodeError as error:
                raise invalid(f"Line {number} is no template: {error}.") from None
    return templates


async def _bounded(request: Request, most: int) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise ApiError(
                413, "invalid_request_error", "body_too_large",
                f"The body has more than {most} bytes; import it in parts, or by `tokamak templates import`.",
            )  # fmt: skip
    return bytes(body)
