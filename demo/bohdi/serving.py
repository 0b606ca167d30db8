"""Serves the models of the live proof over HTTP: the fleet's server, over an engine that decodes sequences together.

A round asks hundreds of short questions at once. Decoded side by side they take a tenth of the time that they take in
turn; single replies are no faster. The pupil's weights can be exchanged while the server runs.
"""

from __future__ import annotations

import copy
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import uvicorn
from starlette.requests import Request
from starlette.responses import Response

from demo.fleet.engine import Engine, Failed, Generation, Served
from demo.fleet.launch import free_port
from demo.fleet.server import FleetServer
from demo.fleet.wire import ChatRequest, parse_chat

TOGETHER = 96
"""Most sequences that are decoded side by side."""
GATHER_S = 0.004
"""How long a batch waits for more sequences after its first."""
START_LIMIT_S = 60.0


class BatchEngine(Engine):
    """An engine that decodes all waiting sequences of one model at once, padded on the left."""

    def exchange(self, name: str, model: Any) -> None:
        """From now on `name` answers with a copy of `model`'s weights. No request of it may be running."""
        self.models[name] = replace(self.models[name], model=copy.deepcopy(model).eval())

    def _work(self) -> None:
        torch.set_num_threads(1)
        waiting: list[Generation] = []
        while True:
            if not waiting:
                first = self._incoming.get()
                if first is None:
                    return
                waiting.append(first)
                time.sleep(GATHER_S)
            if not self._gather(waiting):
                return
            name = waiting[0].served.name
            batch = [generation for generation in waiting if generation.served.name == name][:TOGETHER]
            chosen = set(map(id, batch))
            waiting = [generation for generation in waiting if id(generation) not in chosen]
            self._together(batch)

    def _gather(self, waiting: list[Generation]) -> bool:
        """Take what has arrived. Returns False when the engine is to stop."""
        while True:
            try:
                arrived = self._incoming.get_nowait()
            except queue.Empty:
                return True
            if arrived is None:
                return False
            waiting.append(arrived)

    def _together(self, batch: Sequence[Generation]) -> None:
        try:
            with torch.inference_mode():
                self._decode(batch)
        except Exception as error:  # noqa: BLE001 - root of the worker: the server must live on
            for generation in batch:
                generation.listener(Failed(generation.index, f"generation failed: {error}"))
        self._ended += len(batch)

    def _decode(self, batch: Sequence[Generation]) -> None:
        served = batch[0].served
        longest = max(len(generation.prompt) for generation in batch)
        ids = torch.full((len(batch), longest), served.end)
        mask = torch.zeros((len(batch), longest), dtype=torch.long)
        for row, generation in enumerate(batch):
            ids[row, longest - len(generation.prompt) :] = torch.tensor(generation.prompt)
            mask[row, longest - len(generation.prompt) :] = 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        live, cache = list(range(len(batch))), None
        while live:
            output = served.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
            cache = output.past_key_values
            self.generated_tokens += len(live)
            live = [row for row in live if not self._next(batch[row], output.logits[row, -1])]
            ids = torch.tensor([[generation.tokens[-1] if generation.tokens else served.end] for generation in batch])
            mask = torch.cat((mask, torch.ones((len(batch), 1), dtype=torch.long)), dim=1)
            positions = positions[:, -1:] + 1

    @staticmethod
    def _next(generation: Generation, logits: torch.Tensor) -> bool:
        """One more token of a sequence. Returns True if it has ended."""
        return generation.cancelled.is_set() or generation.accept(logits)


class RememberingServer(FleetServer):
    """A server that asks each source the same thing only once, and gives the same replies to later runs of a kind.

    The n-th time in a run that a prompt is put to a source, it replies as it did the n-th time in the first run of the
    same kind (`begin`). So runs of one seed under different policies meet the same sources: what differs between them
    is the policy. Greedy replies are the same for all. The pupil always answers afresh.
    """

    def __init__(self, engine: BatchEngine, remembered: Iterable[str]) -> None:
        super().__init__(engine)
        self._remembered = frozenset(remembered)
        self._replies: dict[tuple[str, str, int], bytes] = {}
        self._times: Counter[str] = Counter()
        self._run = ""
        self.replayed = 0

    def begin(self, run: str) -> None:
        """From here on prompts are counted from one again, in a run of this kind. No request may be running."""
        self._times.clear()
        self._run = run

    async def chat(self, request: Request) -> Response:
        asked = parse_chat(await request.body())
        if asked.model not in self._remembered or asked.stream:
            return await super().chat(request)
        what = _what(asked)
        key = (what, self._run, self._times[what]) if asked.temperature else (what, "", 0)
        self._times[what] += 1
        kept = self._replies.get(key)
        if kept is not None:
            self.replayed += 1
            return Response(kept, media_type="application/json")
        response = await super().chat(request)
        if response.status_code == 200:
            self._replies[key] = bytes(response.body)
        return response


def _what(asked: ChatRequest) -> str:
    """What is asked and how, but for the seed: that is another one in each run."""
    return repr((asked.model, asked.messages, asked.temperature, asked.top_p, asked.max_tokens, asked.n))


@dataclass(frozen=True, slots=True)
class Service:
    """A running server: its URL (ending in `/v1`), its engine and itself."""

    url: str
    engine: BatchEngine
    server: RememberingServer


@contextmanager
def serving(models: Iterable[Served], remembered: Iterable[str] = ()) -> Iterator[Service]:
    """The server in a thread of this process while the context lasts. `remembered` sources are asked only once.

    Raises RuntimeError if it does not come up.
    """
    engine, port = BatchEngine(models), free_port()
    fleet = RememberingServer(engine, remembered)
    settings = uvicorn.Config(fleet.app(), host="127.0.0.1", port=port, log_level="warning", access_log=False)
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, name="bohdi-fleet", daemon=True)
    thread.start()
    try:
        until = time.monotonic() + START_LIMIT_S
        while not server.started:
            if time.monotonic() > until or not thread.is_alive():
                raise RuntimeError(f"expected the demo's server on port {port}, it did not come up")
            time.sleep(0.02)
        yield Service(f"http://127.0.0.1:{port}/v1", engine, fleet)
    finally:
        server.should_exit = True
        thread.join()
