"""Who takes part: every router of the catalogue, and the rulers that they are read against."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from benchmarks.routing_lab.peers import ROUTELLM, routellm_installed
from routers.catalogue import PLACES, ROUTERS

Group = Literal["ruler", "published", "router"]

RANDOM, SINGLE, ORACLE, TASK_TABLE = "random", "best single", "oracle", "task table"
TAGGED: Final = " + task tags"


@dataclass(frozen=True, slots=True)
class Cap:
    """Limits of a router too slow to run in full: the first `seeds` splits only, and so many training queries."""

    seeds: int | None = None
    train_queries: int | None = None


UNCAPPED: Final = Cap()
LISTS: Final = ("routers.catalogue", "benchmarks.routing_lab.contenders")
PEERS: Final = "benchmarks.routing_lab.peers"
"""Modules that name contenders: a new name among them changes nobody else's results."""
APART: Final = ("prior", "onboarded")
"""Not rows of their own: the best single arm is a ruler, and `onboarded` is another router that was given new arms."""
FEWER_SEEDS: Final = Cap(seeds=3)
CAPS: Final[dict[str, Cap]] = {
    "mlp": FEWER_SEEDS,
    "routerdc": FEWER_SEEDS,
    "published-graphrouter": Cap(seeds=2),
    "bert": Cap(seeds=1, train_queries=1000),
    "published-bert": Cap(seeds=1, train_queries=1000),
}
"""Written into the rows of these routers as `seeds` and `train_queries`, so that nobody takes them for full runs."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One line of the table.

    Attributes
    ----------
    router: its name in the catalogue; None for a ruler that is no router.
    tagged: whether features carry the name of the task as a tag.
    refitted: whether it is fitted anew for every scenario, because it learns labels made for one (the published ones).
    """

    name: str
    group: Group
    router: str | None = None
    tagged: bool = False
    refitted: bool = False
    cap: Cap = UNCAPPED

    @property
    def code(self) -> str:
        """A digest of the source that its results depend on."""
        modules = ["benchmarks.routing_lab.trial", "benchmarks.routing_lab.rulers", "benchmarks.routing_lab.splits"]
        modules += [] if self.router is None else [PLACES[self.router].partition(":")[0]]
        return source_digest(modules, unread=LISTS if self.name == ROUTELLM else (*LISTS, PEERS))


def default_router() -> str:
    """The name of the router that ships as ours."""
    return "ensemble" if "ensemble" in PLACES else "cluster"


def contenders(names: tuple[str, ...] = ()) -> list[Contender]:
    """All of them, or of the routers only those named; rulers always take part."""
    unknown = set(names) - set(PLACES)
    if unknown:
        raise ValueError(f"no router is called {', '.join(sorted(unknown))}; there are {', '.join(PLACES)}")
    found = [
        Contender(RANDOM, "ruler"),
        Contender(SINGLE, "ruler", "prior"),
        Contender(TASK_TABLE, "ruler"),
        Contender(ORACLE, "ruler"),
    ]
    for name in names or tuple(PLACES):
        if name in APART:
            continue
        refitted = _learns_labels(name)
        group: Group = "published" if refitted else "router"
        found.append(Contender(name, group, name, refitted=refitted, cap=CAPS.get(name, UNCAPPED)))
        if name == default_router():
            found.append(Contender(name + TAGGED, "ruler", name, tagged=True))
    if not names and routellm_installed():
        found.append(Contender(ROUTELLM, "published", cap=FEWER_SEEDS))
    return found


def _learns_labels(name: str) -> bool:
    """Whether the router learns labels made for one preference; one that cannot be imported fails in its trials."""
    try:
        return bool(getattr(ROUTERS[name], "fits_preference", False))
    except (ImportError, AttributeError):
        return False


def source_digest(modules: list[str], unread: tuple[str, ...] = ()) -> str:
    """A digest of the files of these modules and of all that they import of the house, at any depth but `unread`."""
    files: set[Path] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        path = None if module in unread else _file_of(module)
        if path is None or path in files:
            continue
        files.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
    made = hashlib.sha256()
    for path in sorted(files):
        made.update(path.read_bytes())
    return made.hexdigest()[:16]


def _file_of(module: str) -> Path | None:
    """The file of a module of the house that results can depend on; None of anybody else's."""
    if module.split(".")[0] not in ("routers", "benchmarks", "offline"):
        return None
    try:
        spec = find_spec(module)
    except (ModuleNotFoundError, AttributeError):
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin)
