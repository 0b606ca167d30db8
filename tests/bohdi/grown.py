"""A small knowledge tree with episodes, made by hand: what the tests of the training draw, the export and the pictures
look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from offline.bohdi.events import (
    ROOT,
    AnyEvent,
    Contested,
    Planted,
    Reborn,
    Reply,
    RoundBegan,
    RoundEnded,
    Sprouted,
    TargetChanged,
    Verdict,
    node_id,
)
from offline.bohdi.log import EpisodeLog

TARGET, LARGE, OTHER = "target", "large", "other"
LEAVES = (
    ("Mathematics", "Algebra", "Equations"),
    ("Mathematics", "Algebra", "Matrices"),
    ("History", "Antiquity", "Rome"),
    ("自然科学", "Études", "C++ & R&D"),
)
WORDS = (
    "amber", "birch", "copper", "delta", "ember", "fjord", "garnet", "hazel", "indigo", "jasper", "krill", "linen",
    "maple", "nickel", "onyx", "pearl",
)  # fmt: skip


def path_of(names: Iterable[str]) -> tuple[str, ...]:
    """The ids of the nodes of these names, from the first level down."""
    found, parent = [], ROOT
    for name in names:
        parent = node_id(parent, name)
        found.append(parent)
    return tuple(found)


def planted(tenant: str = "") -> Iterator[AnyEvent]:
    """The first events: a tree of three levels with four leaves."""
    yield Planted(at=1.0, levels=3, target=TARGET, target_version="t0", sources=(LARGE, OTHER), seed=0, tenant=tenant)
    known = set()
    for names in LEAVES:
        path = path_of(names)
        for depth, (node, name) in enumerate(zip(path, names, strict=True)):
            if node not in known:
                known.add(node)
                parent = path[depth - 1] if depth else ROOT
                yield Sprouted(at=2.0, round=1, node=node, parent=parent, name=name, votes={LARGE: 3})


def question(number: int, leaf: int) -> str:
    """A question that is like no other."""
    chosen = [WORDS[(number * step + leaf) % len(WORDS)] for step in (1, 3, 5, 7, 11)]
    return f"In {LEAVES[leaf][2]}, how does the {' '.join(chosen)} case number {number} come about?"


def episode(number: int, leaf: int, *, version: str = "t0", round_: int = 1, **changes: object) -> Contested:
    """A contest that the source `large` has won before two of three judges."""
    step = f"r{round_}/p{number}"
    fields: dict[str, object] = {
        "at": 10.0 + number,
        "round": round_,
        "step": step,
        "path": path_of(LEAVES[leaf]),
        "question": question(number, leaf),
        "replies": (
            Reply(model=TARGET, text=f"I do not know {number}.", tokens=5),
            Reply(model=LARGE, model_version="l1", text=f"It comes about by {number} steps.", tokens=9, cost_usd=0.01),
            Reply(model=OTHER, text=f"Perhaps by {number}.", tokens=7),
        ),
        "verdict": Verdict(
            method="majority", winner=LARGE, votes=(("judge", LARGE), ("judge", LARGE), ("judge", "")), margin=0.5
        ),
        "reward": 1.0,
        "target_version": version,
        "seed": number,
        "prompts_version": "p1",
        "cost_usd": 0.02,
        "licences": ("apache-2.0",),
    }
    return Contested(**(fields | changes))  # type: ignore[arg-type]


def checked(number: int, leaf: int, *, right: Iterable[str], winner: str | None, reward: float) -> Contested:
    """A contest that a checker has decided: `right` are the models whose answers are right."""
    rights = set(right)
    replies = tuple(
        Reply(model=model, text=f"{model} says {number if model in rights else -number}", correct=model in rights)
        for model in (TARGET, LARGE, OTHER)
    )
    return episode(number, leaf, replies=replies, verdict=Verdict(method="checker", winner=winner), reward=reward)


def round_of(number: int, contests: Iterable[Contested], version: str = "t0") -> Iterator[AnyEvent]:
    """A round that began, held these contests and ended."""
    held = list(contests)
    yield RoundBegan(
        at=100.0 * number, round=number, leader=LARGE, paths=len(held), seed=number, target_version=version,
        prompts_version="p1",
    )  # fmt: skip
    yield from held
    dropped = sum(contest.reward is None for contest in held)
    cost = sum(contest.cost_usd or 0.0 for contest in held)
    yield RoundEnded(at=100.0 * number + 50, round=number, contests=len(held) - dropped, dropped=dropped, cost_usd=cost)


def two_rounds() -> Iterator[AnyEvent]:
    """A tree with a round of 40 contests before and one of 40 after its target was trained; a node was reborn."""
    yield from planted()
    yield from round_of(1, (episode(n, n % 4, round_=1) for n in range(40)))
    yield TargetChanged(at=200.0, version="t1", round=1)
    yield from round_of(
        2, (episode(n, n % 3, version="t1", round_=2, reward=float(n % 2)) for n in range(100, 140)), "t1"
    )
    yield Reborn(
        at=260.0, round=2, node=path_of(LEAVES[0])[0], rule="two_sample", statistic=9.5, p_value=0.002,
        window=(0.0, 1.0) * 15, false_discovery=0.05,
    )  # fmt: skip


def written(folder: Path, events: Iterable[AnyEvent]) -> EpisodeLog:
    """A log with these events, closed."""
    log = EpisodeLog(folder / "log.db")
    log.append(list(events))
    log.close()
    return log
