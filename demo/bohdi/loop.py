"""One run of the live proof: meditate, train the pupil on what was found, meditate again.

The rounds are those of `offline.bohdi`, over HTTP; the training set is its draw. Only the training itself is short and
plain here: the full distillation is another half's work.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from demo.bohdi.domains import PLACES, read, verify
from demo.bohdi.findings import Asked, Reset, RoundSeen, Run
from demo.bohdi.policies import Plan, Policy, settings_of
from demo.bohdi.pupil import Pupil
from demo.bohdi.roster import PUPIL, SOURCES
from demo.bohdi.serving import Service
from demo.fleet.corpus import Example
from demo.fleet.engine import Served
from encoders.protocol import Encoder
from offline.bohdi.branches import draw_leaves
from offline.bohdi.candidates import gather
from offline.bohdi.contamination import Benchmarks
from offline.bohdi.draw import NothingToDraw, Wanted, draw
from offline.bohdi.events import AnyEvent, Contested, Reborn, Sprouted, TargetChanged
from offline.bohdi.log import EpisodeLog
from offline.bohdi.rounds import meditate
from offline.bohdi.settings import Settings
from offline.bohdi.training_set import Example as Drawn
from offline.bohdi.tree import Tree
from registry.arms import Pool
from registry.config import Config
from registry.config_file import build_pool

FAMILY_OF: dict[tuple[str, ...], str] = {place: family for family, place in PLACES.items()}


Seen = Callable[[RoundSeen], None]


def pool_at(url: str) -> Pool:
    """The pool of the sources and the pupil, all behind one server. The prices are invented: nobody sells these."""
    prices = {"prompt_per_1m": 0.13, "completion_per_1m": 0.52}
    models = {
        name: {"endpoints": [{"upstream": "fleet"}], "prices": prices, "context_window": 1024}
        for name in (*SOURCES, PUPIL)
    }
    document: dict[str, Any] = {"version": 1, "upstreams": {"fleet": {"base_url": url}}, "models": models}
    return build_pool(Config.model_validate(document))


async def run(
    policy: Policy,
    plan: Plan,
    seed: int,
    service: Service,
    beginner: Served,
    encoder: Encoder,
    folder: Path,
    before: dict[str, float],
    seen: Seen,
) -> Run:
    """Run one policy. `folder` gets its episode log, which must not be there. Tells `seen` after each round.

    `before`: the beginner's accuracy. A round in which nothing was found trains nothing.
    """
    settings, pool = settings_of(policy, plan, seed), pool_at(service.url)
    service.server.begin(str(seed))
    pupil = Pupil(beginner, seed)
    service.engine.exchange(PUPIL, pupil.model)
    rounds, done = list[RoundSeen](), 0
    with EpisodeLog(folder / f"{policy}-{seed}.db") as log:
        for number in range(1, plan.rounds + 1):
            started = time.monotonic()
            report = await meditate(log, settings, pool, encoder=encoder, checkers=[verify])
            meditated = time.monotonic()
            drawn = lessons_of(log, settings, plan, seed, number)
            if drawn:
                lessons = [(Example(None, one.question, one.answer), one.weight) for one in drawn]
                pupil.learn(lessons, plan.steps, plan.batch, plan.learning_rate)
                service.engine.exchange(PUPIL, pupil.model)
                log.append([TargetChanged(at=time.time(), round=number, version=f"{PUPIL}@{pupil.version}")])
            trained = time.monotonic()
            events = [event for _, event in log.events(done)]
            done += len(events)
            tree = log.tree()
            known = pupil.examine(plan.held_out if number == plan.rounds else plan.glance)
            rounds.append(
                RoundSeen(
                    number=number, found=_asked(events, tree), trained=_families(drawn), accuracy=known,
                    cost_usd=report.cost_usd, meditation_s=meditated - started, training_s=trained - meditated,
                )
            )  # fmt: skip
            seen(rounds[-1])
    return Run(policy, seed, before, tuple(rounds))


def lessons_of(log: EpisodeLog, settings: Settings, plan: Plan, seed: int, number: int) -> Sequence[Drawn]:
    """The draw after a round, by the policy's own rule; none if the log holds nothing to learn.

    What the pupil is examined on is not in it.
    """
    gathered = gather(log.events())
    gathered.candidates = [one for one in gathered.candidates if _may_be_taught(one.episode)]
    rng = np.random.default_rng([seed, number])
    wanted = Wanted(size=plan.draw, seed=seed * 1000 + number, replay_share=plan.replay)
    tree = log.tree()
    try:
        return draw(gathered, lambda count: draw_leaves(tree, count, rng, settings), wanted, Benchmarks()).examples
    except NothingToDraw:
        return ()


def _may_be_taught(episode: Contested) -> bool:
    asked = read(episode.question)
    return asked is not None and asked.split == "train"


def _families(drawn: Sequence[Drawn]) -> dict[str, int]:
    return dict(Counter(FAMILY_OF.get(one.provenance.path[-2:], "stray") for one in drawn))


def _asked(events: list[AnyEvent], tree: Tree) -> Asked:
    """What the events of a round say, by family."""
    asked, won, dropped, stray = Counter[str](), defaultdict[str, float](float), 0, 0
    for event in events:
        if not isinstance(event, Contested):
            continue
        family = FAMILY_OF.get(tree.path_names(event.path[-1])[-2:])
        if family is None:
            stray += 1
        elif event.reward is None:
            dropped += 1
        else:
            asked[family] += 1
            won[family] += event.reward

    def named(node: str) -> str:
        return " / ".join(tree.path_names(node))

    return Asked(
        asked=dict(asked),
        gain={family: won[family] / count for family, count in asked.items()},
        resets=tuple(Reset(named(event.node), event.p_value) for event in events if isinstance(event, Reborn)),
        sprouted=tuple(named(event.node) for event in events if isinstance(event, Sprouted)),
        dropped=dropped,
        stray=stray,
    )
