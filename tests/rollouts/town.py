"""A service in a process of its own, in front of two scripted models that are good at different questions."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.gateway.live import WAIT_S, until
from tests.gateway.test_serve_command import free_ports, served
from tests.upstream import ScriptedUpstream, answer
from tests.upstream.script import Received, Steps

TOKEN = "token-of-the-test"
RIGHT, WRONG = "right", "wrong"
GOOD_AT = {"calc": "sums", "book": "capitals"}

CONFIG = """version: 1
server: {{port: {port}, admin_port: {admin}, data_dir: {data}, drain_s: 5}}
upstreams:
  calc: {{base_url: "{calc}"}}
  book: {{base_url: "{book}"}}
models:
  calc: {{endpoints: [{{upstream: calc}}], quality_prior: 0.8, prices: {{prompt_per_1m: 1, completion_per_1m: 1}}}}
  book: {{endpoints: [{{upstream: book}}], quality_prior: 0.4, prices: {{prompt_per_1m: 1, completion_per_1m: 1}}}}
routers: {{poll_s: 0.05}}
jobs: {{lease_s: 2.0, worker: {worker}}}
routes:
  auto: {{preference: 1.0}}
limits: {{breaker_failures: 1000000}}
"""


def question(number: int) -> str:
    """Sums for even numbers, capitals for odd ones; each is asked in its own words."""
    place = random.Random(number)
    if number % 2 == 0:
        first, second = place.randrange(10_000), place.randrange(10_000)
        return f"Calculate the sum {first} + {second} and give the number."
    name = "".join(place.choice("bcdfglmnprst") + place.choice("aeiou") for _ in range(4)).capitalize()
    return f"Which city is the capital of the country {name}?"


def model_script(model: str) -> Any:
    """Says `right` to what the model is good at."""

    def script(request: Received) -> Steps:
        asked = request.json["messages"][-1]["content"]
        kind = "sums" if "sum" in asked else "capitals"
        return answer(RIGHT if GOOD_AT[model] == kind else WRONG, id=f"chatcmpl-{random.getrandbits(64):x}")(request)

    return script


@dataclass(frozen=True, slots=True)
class Told:
    """One answer: whether it was right, and who gave it."""

    id: str
    right: bool
    router: str
    model: str


@dataclass(frozen=True, slots=True)
class Town:
    data: httpx.Client
    admin: httpx.Client
    folder: Path
    admin_url: str

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    def ask(self, number: int, *, exploration: float = 0.0) -> Told:
        body = {
            "model": "auto", "messages": [{"role": "user", "content": question(number)}],
            "routing": {"exploration": exploration},
        }  # fmt: skip
        response = self.data.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        said = response.json()["choices"][0]["message"]["content"]
        headers = response.headers
        return Told(headers["x-request-id"], said == RIGHT, headers["x-tokamak-router"], headers["x-tokamak-model"])

    def score(self, told: Told) -> None:
        body = {"request_id": told.id, "metric": "correct", "value": told.right}
        assert self.data.post("/v1/feedback", json=body).status_code == 200

    def traffic(self, numbers: Sequence[int], *, exploration: float = 0.0, scored: bool = True) -> list[Told]:
        """Ask all of them, a few at a time, and say of each whether it was right."""

        def one(number: int) -> Told:
            told = self.ask(number, exploration=exploration)
            if scored:
                self.score(told)
            return told

        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(one, numbers))

    def etag(self) -> str:
        return str(self.admin.get("/admin/routers/rollout").headers["etag"])

    def change(self, path: str, **body: Any) -> httpx.Response:
        return self.admin.post(f"/admin/routers/{path}", json=body, headers={"if-match": self.etag()})

    def trained(self, **arguments: Any) -> dict[str, Any]:
        """Queue a training and wait until it has ended."""
        response = self.admin.post("/admin/routers/train", json=arguments)
        assert response.status_code == 202, response.text
        return self.ended(response.json()["job"]["id"])

    def ended(self, job: str) -> dict[str, Any]:
        def find() -> dict[str, Any] | None:
            found: dict[str, Any] = self.admin.get(f"/admin/jobs/{job}").json()
            return found if found["state"] not in ("queued", "running") else None

        for _ in range(4):
            try:
                return until(find, f"{job} did not end: {self.worker_log()[-2000:]}")
            except AssertionError as error:
                late = error
        raise late

    def worker_log(self) -> str:
        path = self.data_dir / "worker.log"
        return path.read_text() if path.exists() else ""


@contextmanager
def town(folder: Path, worker: str = "auto") -> Iterator[Town]:
    port, admin = free_ports(2)
    with (
        ScriptedUpstream(("calc",), model_script("calc")) as calc,
        ScriptedUpstream(("book",), model_script("book")) as book,
    ):
        config = folder / "tokamak.yaml"
        values = {"port": port, "admin": admin, "data": folder / "data", "calc": calc.url, "book": book.url}
        config.write_text(CONFIG.format(worker=worker, **values))
        with (
            served(config, port, TOKAMAK_ADMIN_TOKEN=TOKEN),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S) as data,
            httpx.Client(
                base_url=f"http://127.0.0.1:{admin}", timeout=WAIT_S, headers={"authorization": f"Bearer {TOKEN}"}
            ) as to_admin,
        ):
            until(lambda: _listens(to_admin), "the admin port did not open")
            yield Town(data, to_admin, folder, f"http://127.0.0.1:{admin}")


def _listens(client: httpx.Client) -> bool:
    try:
        return client.get("/admin/jobs").status_code == 200
    except httpx.TransportError:
        return False
