"""The template store as the admin port uses it: in a thread, by a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from service.admin_body import told
from service.errors import ApiError
from service.gateway import Gateway
from templates_store.database import TemplateStateError, TemplateStoreError
from templates_store.index_files import IndexUnusable
from templates_store.opening import open_store
from templates_store.store import TemplateStore
from templates_store.template import Template

T = TypeVar("T")


async def used(gateway: Gateway, work: Callable[[TemplateStore], T]) -> T:
    """What `work` on the store returns. No request waits for it. Raises ApiError for what the store refuses."""

    def run() -> T:
        with open_store(gateway.data_dir, gateway.config.templates.url) as store:
            return work(store)

    with told(), templates_told():
        return await asyncio.to_thread(run)


@contextmanager
def templates_told() -> Iterator[None]:
    """What the store refuses, as errors of the API."""
    try:
        yield
    except TemplateStateError as error:
        raise ApiError(409, "invalid_request_error", "template_state", f"{error}.") from error
    except (TemplateStoreError, IndexUnusable) as error:
        raise ApiError(503, "api_error", "templates_unusable", f"{error}.") from error


def found_template(store: TemplateStore, id_: str) -> Template:
    """The template. Raises ApiError 404."""
    template = store.get(id_)
    if template is None:
        message = f"There is no template {id_!r}; GET /admin/templates lists them."
        raise ApiError(404, "not_found_error", "template_not_found", message)
    return template


def shown_template(template: Template) -> dict[str, Any]:
    """A template without its vector."""
    fields: dict[str, Any] = msgspec.to_builtins(template, builtin_types=(bytes,))
    del fields["vector"]
    return fields
