"""The ASGI application of the data port: plain ASGI for the hot endpoints, FastAPI for everything else."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from encoders.protocol import EncoderUnavailable
from registry.api_key_table import ApiKeysError
from registry.artifacts import ArtifactError
from registry.config import Config
from service.asgi import Receive, Scope, Send, send_error
from service.errors import ApiError
from service.gateway import Gateway
from service.openai_api.embeddings import embeddings
from service.openai_api.requests import chat_request, completion_request
from service.openai_api.side import side_application
from service.pipeline import answer
from templates_store.database import TemplateStoreError
from traffic.log import LogError

logger = logging.getLogger("tokamak.app")

Endpoint = Callable[[Gateway, Scope, Receive, Send], Awaitable[None]]


async def chat_completions(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    await answer(gateway, "/chat/completions", chat_request, scope, receive, send)


async def completions(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    await answer(gateway, "/completions", completion_request, scope, receive, send)


REFUSALS = (ApiKeysError, ArtifactError, LogError, TemplateStoreError, EncoderUnavailable)
"""Why a service may rightly not start; their messages say what to do."""

HOT: dict[str, Endpoint] = {
    "/v1/chat/completions": chat_completions,
    "/v1/completions": completions,
    "/v1/embeddings": embeddings,
}


class Application:
    """The data port. `gateway` is started and stopped by the ASGI lifespan."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._side = side_application(gateway)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            endpoint = HOT.get(scope["path"])
            if endpoint is None:
                await self._side(scope, receive, send)
            elif scope["method"] == "POST":
                await self._answer(endpoint, scope, receive, send)
            else:
                await send_error(send, method_not_allowed(scope["method"], scope["path"]), [(b"allow", b"POST")])
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            raise RuntimeError(f"scope type {scope['type']!r} is not served here")

    async def _answer(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await endpoint(self.gateway, scope, receive, send)
        except Exception:  # A task root: a defect must not show the client anything but a proper error.
            logger.exception("a request to %s met a defect", scope["path"])
            # Once an answer has begun the server refuses a second start and closes the connection, which is right.
            with contextlib.suppress(RuntimeError):
                await send_error(send, internal_error())

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.gateway.start()
                except REFUSALS as error:
                    await send({"type": "lifespan.startup.failed", "message": f"cannot start: {error}"})
                    return
                except Exception as error:
                    logger.exception("cannot start")
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.gateway.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


def method_not_allowed(method: str, path: str) -> ApiError:
    return ApiError(
        405, "invalid_request_error", "method_not_allowed", f"{path} does not answer {method}; use POST.", param=None
    )


def internal_error() -> ApiError:
    return ApiError(500, "api_error", "internal_error", "Internal error; the log of the service has it.")


def create_app(config: Config, environ: Mapping[str, str] | None = None) -> Application:
    """The application of one config; `environ` (the process's by default) holds the keys that the config names."""
    return Application(Gateway(config, environ))
