"""The light server of the demo fleet: one process, all models by name, the OpenAI API.

    python -m demo.fleet.server --port 8500 [--models NAME ...]

Chat and text completions, streamed and not, usage, log-probabilities, `n`, `stop`, `seed`. Replies are greedy unless
the request sets a temperature. It is meant for a demo on a CPU; a real deployment puts vLLM here (`demo.fleet.vllm`).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import msgspec
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from demo.fleet.engine import Engine, Failed, Generation, Piece, Served, load
from demo.fleet.roster import ALL_MEMBERS, ROSTER
from demo.fleet.wire import (
    ApiError,
    ChatRequest,
    Sampling,
    TextRequest,
    Token,
    Writer,
    parse_chat,
    parse_text,
    sampling_of,
    usage,
)

CLIENT_LEFT = 499
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Work:
    """A request ready for the engine: one prompt per choice."""

    served: Served
    prompts: tuple[list[int], ...]
    prompt_tokens: int
    sampling: Sampling
    writer: Writer
    stream: bool
    include_usage: bool

    @property
    def reports(self) -> bool:
        return self.sampling.top_logprobs is not None


class Run:
    """The sequences of one request and the news of them, in order. Leaving the context cancels what still runs."""

    def __init__(self, engine: Engine, work: Work) -> None:
        self.engine, self.work = engine, work
        self.news: asyncio.Queue[Piece | Failed] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def listener(news: Piece | Failed) -> None:
            # The loop may be gone when the server stops in the middle of a reply; then nobody waits for the news.
            if not loop.is_closed():
                loop.call_soon_threadsafe(self.news.put_nowait, news)

        self.generations = [
            Generation(work.served, prompt, work.sampling, listener, index) for index, prompt in enumerate(work.prompts)
        ]

    def __enter__(self) -> Run:
        for generation in self.generations:
            self.engine.submit(generation)
        return self

    def __exit__(self, *_: object) -> None:
        for generation in self.generations:
            generation.cancel()

    async def pieces(self) -> AsyncIterator[Piece]:
        """All pieces of all choices until each has ended. Raises ApiError (500) if the engine fails."""
        left = len(self.generations)
        while left:
            news = await self.news.get()
            if isinstance(news, Failed):
                raise ApiError(500, news.message)
            left -= news.finish is not None
            yield news


class FleetServer:
    """The routes over one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def app(self) -> Starlette:
        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            self.engine.close()

        routes = [
            Route("/health", self.health),
            Route("/metrics", self.metrics),
            Route("/v1/models", self.models),
            Route("/v1/models/{name}", self.model),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.text, methods=["POST"]),
        ]
        return Starlette(
            routes=routes, exception_handlers={ApiError: _refuse, 404: _no_route, 405: _no_route}, lifespan=lifespan
        )

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "models": list(self.engine.models)})

    async def metrics(self, _: Request) -> Response:
        lines = (
            "# TYPE fleet_requests_running gauge",
            f"fleet_requests_running {self.engine.running}",
            "# TYPE fleet_generated_tokens_total counter",
            f"fleet_generated_tokens_total {self.engine.generated_tokens}",
        )
        return PlainTextResponse("\n".join(lines) + "\n")

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_card(served) for served in self.engine.models.values()]})

    async def model(self, request: Request) -> Response:
        return JSONResponse(_card(self._served(request.path_params["name"])))

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, self._chat_work(parse_chat(await request.body())))

    async def text(self, request: Request) -> Response:
        return await self._answer(request, self._text_work(parse_text(await request.body())))

    def _served(self, name: str) -> Served:
        served = self.engine.models.get(name)
        if served is None:
            known = ", ".join(self.engine.models)
            raise ApiError(
                404, f"The model `{name}` does not exist here; there are: {known}.", "model_not_found", "model"
            )
        return served

    def _chat_work(self, asked: ChatRequest) -> Work:
        served = self._served(asked.model)
        prompt = served.chat_prompt(asked.messages)
        return self._work(served, asked, [prompt], Writer("chat", asked.model))

    def _text_work(self, asked: TextRequest) -> Work:
        served = self._served(asked.model)
        return self._work(served, asked, served.text_prompts(asked.prompt), Writer("text", asked.model))

    def _work(self, served: Served, asked: ChatRequest | TextRequest, prompts: list[list[int]], writer: Writer) -> Work:
        sampling = sampling_of(asked, max(len(prompt) for prompt in prompts), served.context_window)
        copies = tuple(prompt for prompt in prompts for _ in range(asked.n or 1))
        options = asked.stream_options
        return Work(
            served, copies, sum(len(prompt) for prompt in prompts), sampling, writer,
            stream=bool(asked.stream), include_usage=options is not None and options.include_usage,
        )  # fmt: skip

    async def _answer(self, request: Request, work: Work) -> Response:
        run = Run(self.engine, work)
        if work.stream:
            return StreamingResponse(_events(run), media_type="text/event-stream")
        whole = await _unless_client_leaves(request, _whole(run))
        return Response(status_code=CLIENT_LEFT) if whole is None else JSONResponse(whole)


def _card(served: Served) -> dict[str, Any]:
    return {
        "id": served.name, "object": "model", "created": 0, "owned_by": "tokamak-demo",
        "max_model_len": served.context_window,
    }  # fmt: skip


async def _whole(run: Run) -> dict[str, Any]:
    """The response of a request that is not streamed."""
    work, count = run.work, len(run.generations)
    texts, tokens = [""] * count, [list[Token]() for _ in range(count)]
    finishes: list[str | None] = [None] * count
    completion = 0
    with run:
        async for piece in run.pieces():
            texts[piece.index] += piece.text
            tokens[piece.index].extend(piece.tokens)
            if piece.finish is not None:
                finishes[piece.index] = piece.finish
                completion += piece.completion_tokens
    choices = [
        work.writer.choice(index, texts[index], finishes[index], tokens[index] if work.reports else None)
        for index in range(count)
    ]
    return work.writer.response(choices, usage(work.prompt_tokens, completion))


async def _events(run: Run) -> AsyncIterator[bytes]:
    """The server-sent events of a streamed request. An engine failure is an error event without `[DONE]`."""
    work, sent = run.work, [0] * len(run.generations)
    begun, completion = set[int](), 0
    pending: dict[str, None] = {"usage": None} if work.include_usage else {}
    with run:
        try:
            async for piece in run.pieces():
                tokens: Sequence[Token] | None = piece.tokens if work.reports else None
                first = piece.index not in begun
                begun.add(piece.index)
                delta = work.writer.delta(piece.index, piece.text, piece.finish, tokens, sent[piece.index], first)
                sent[piece.index] += len(piece.text)
                completion += piece.completion_tokens if piece.finish is not None else 0
                yield _event(work.writer.chunk([delta], **pending))
        except ApiError as error:
            yield _event(error.body())
            return
        if work.include_usage:
            yield _event(work.writer.chunk([], usage=usage(work.prompt_tokens, completion)))
        yield b"data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


async def _unless_client_leaves(request: Request, answer: Awaitable[Result]) -> Result | None:
    """The awaited answer, or None (and the answer cancelled) if the client closes the connection first."""
    answering = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(_departure(request))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return answering.result() if answering.done() else None
    finally:
        answering.cancel()
        leaving.cancel()


async def _departure(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), status_code=error.status)


async def _no_route(request: Request, _: Exception) -> Response:
    message = f"There is no {request.method} {request.url.path} here; try GET /v1/models or POST /v1/chat/completions."
    return JSONResponse(ApiError(404, message).body(), status_code=404)


def _exit_with(parent: int) -> None:
    """End this process, as Ctrl-C does, once `parent` is gone: nobody is left who could stop it."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the demo fleet over the OpenAI API.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8500)
    parser.add_argument("--models", nargs="+", choices=list(ALL_MEMBERS), default=list(ROSTER), metavar="NAME")
    parser.add_argument("--exit-with-parent", action="store_true", help="stop when the starting process is gone")
    arguments = parser.parse_args()
    if arguments.exit_with_parent:
        threading.Thread(target=_exit_with, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)
    engine = Engine(load(ALL_MEMBERS[name].folder, name) for name in arguments.models)
    print(f"demo fleet: {', '.join(engine.models)} on http://{arguments.host}:{arguments.port}/v1", flush=True)
    uvicorn.run(FleetServer(engine).app(), host=arguments.host, port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
