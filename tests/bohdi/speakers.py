"""Models behind a real HTTP server that play their parts in a round: what they say follows from the request alone.

They propose domains out of a small map, ask sums or open questions, answer as well as their skill allows, and judge by
looking for the right result.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoders.static import StaticEncoder
from offline.bohdi.log import EpisodeLog
from offline.bohdi.rounds import RoundReport, meditate
from offline.bohdi.settings import Settings
from registry.arms import Endpoint, Model, Pool, Prices, Upstream
from tests.upstream import Received, ScriptedUpstream, answer, failing
from tests.upstream.script import Script, Steps

FIELDS = {
    "": ("Mathematics", "C++", "Études musicales", "机器学习"),
    "Mathematics": ("Algebra", "Geometry", "Number Theory"),
    "C++": ("Templates", "R&D Tools", "Pointers"),
    "Études musicales": ("Harmonie", "Rythme", "Écoute"),
    "机器学习": ("回归", "聚类", "神经网络"),
}
"""Domains of the first level, and parts of everything below: those named here, or numbered topics."""
PRICES = Prices(1.0, 2.0)
ENCODER = StaticEncoder.load()


def prompt_of(request: Received) -> str:
    content = request.json["messages"][-1]["content"]
    assert isinstance(content, str)
    return content


def kind_of(prompt: str) -> str:
    """What a prompt of the standard set asks for."""
    marks = {"<field>": "propose", "<problem>": "ask", "Two people": "compare", "Several people": "choose"}
    return next((kind for mark, kind in marks.items() if mark in prompt), "answer")


@dataclass(frozen=True)
class Speaker:
    """A model. `skill`: the share of sums that it works out right. `open_questions`: it asks what no checker can check.

    `says` replaces what it says of one kind: a function of the prompt.
    """

    skill: float = 1.0
    open_questions: bool = False
    says: tuple[tuple[str, Callable[[str], str]], ...] = ()
    usage: bool = True

    def __call__(self, request: Received) -> Steps:
        prompt, seed = prompt_of(request), request.json["seed"]
        kind = kind_of(prompt)
        replaced = dict(self.says).get(kind)
        text = replaced(prompt) if replaced is not None else getattr(self, kind)(prompt, random.Random(seed))
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(text) // 4 + 1}
        fields: dict[str, Any] = {"usage": usage} if self.usage else {"usage_place": "absent"}
        return answer(text, **fields)(request)

    def propose(self, prompt: str, rng: random.Random) -> str:
        path = re.search(r"We are here on it: (.*)", prompt)
        last = path[1].split(" > ")[-1] if path else ""
        known = FIELDS.get(last, tuple(f"{last} topic {i}" for i in range(1, 4)))
        return f"I would add <field>{rng.choice(known)}</field>"

    def ask(self, prompt: str, rng: random.Random) -> str:
        path = re.search(r"masters this field: (.*)", prompt)
        assert path is not None
        a, b = rng.randint(100, 999), rng.randint(100, 999)
        if self.open_questions:
            text = f"Two rooms hold {a} and {b} books.\n\n| room | books |\n|---|---|\n| 1 | {a} |\n| 2 | {b} |\n\nSum?"
            return f"<problem>\n{text}\nField: {path[1]}\n</problem>"
        return f"Here it is.\n<problem>What is {a} + {b} + 0 + 0 + 0 + 0?</problem>"

    def answer(self, prompt: str, rng: random.Random) -> str:
        right = sum(int(number) for number in re.findall(r"\d{3}", prompt)[:2])
        return f"Adding up gives {right if rng.random() < self.skill else right + 1}"

    def compare(self, prompt: str, rng: random.Random) -> str:
        right = str(sum(int(number) for number in re.findall(r"\d{3}", prompt.split(" problem]")[1])[:2]))
        shown = re.findall(r"solution (\w+)\]\n(.*?)\n\[", prompt, re.S)
        good = [label for label, text in shown if text.endswith(right)]
        return f"I worked it out. <verdict>{good[0] if len(good) == 1 else 'TIE'}</verdict>"

    choose = compare


@dataclass
class World:
    """A server with models, a pool that leads to it, and a folder for logs."""

    upstream: ScriptedUpstream
    folder: Path
    pool: Pool

    @property
    def settings(self) -> Settings:
        return Settings(
            target="pupil", sources=("alpha", "beta", "gamma"), judges=("judge",), paths_per_round=6, seed=5
        )

    def log(self, name: str = "tree.db") -> EpisodeLog:
        return EpisodeLog(self.folder / name)

    def asked(self) -> Counter[tuple[str, str]]:
        """Requests so far by model and kind."""
        return Counter((request.json["model"], kind_of(prompt_of(request))) for request in self.upstream.requests)

    async def meditate(self, log: EpisodeLog, settings: Settings | None = None, **options: Any) -> RoundReport:
        """A round in which failed calls are tried again at once."""
        return await meditate(log, settings or self.settings, self.pool, encoder=ENCODER, first_wait_s=0.0, **options)


def world_of(upstream: ScriptedUpstream, folder: Path, **speakers: Script) -> World:
    """A world in which the pupil is bad at sums, the sources are good, and a judge looks on; `speakers` change that."""
    cast: dict[str, Script] = {
        "pupil": Speaker(skill=0.3), "alpha": Speaker(), "beta": Speaker(), "gamma": Speaker(skill=0.9),
        "judge": Speaker(),
    }  # fmt: skip
    cast |= speakers
    for name, speaker in cast.items():
        upstream.for_model(name, speaker)
    return World(upstream, folder, pool_of(upstream.url, tuple(cast)))


def pool_of(url: str, names: Sequence[str], prices: Prices = PRICES) -> Pool:
    place = Upstream("up", url, total_timeout_s=20.0)
    return Pool(tuple(Model(name, (Endpoint(place, name),), prices=prices) for name in names))


DOWN: Script = failing(503, "out of order")


def repeated(requests: Sequence[Received]) -> list[str]:
    """Requests that came more than once, word for word."""
    counts = Counter(json.dumps(request.json, sort_keys=True) for request in requests)
    return [body for body, count in counts.items() if count > 1]
