"""The walks of a round: from the root to a leaf each, all drawn from the tree as the round found it.

They go in waves. In each wave every walk goes down until it stands on a leaf or where a domain is to be added; then all
places that want a domain are asked about together. A new domain is taken by the first walk that waits for it; the
others draw again beside it. So one batch of calls serves a whole level, and thirty walks do not flood one place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from encoders.protocol import Encoder
from offline.bohdi.asking import Asker
from offline.bohdi.branches import SPROUT, DeadEnd, walk_step
from offline.bohdi.calls import Call, call_seed
from offline.bohdi.events import ROOT, Sprouted, SproutFailed
from offline.bohdi.journal import Journal
from offline.bohdi.prompts import PromptSet
from offline.bohdi.settings import Settings
from offline.bohdi.sprout import Sprout, propose_calls, sprouted

MOST_FAILURES = 10
"""Failed sprouts after which a walk is given up, as published."""


@dataclass(slots=True)
class Walk:
    """One walk. `nodes`: below the root, as far as it has come. `over`: it will not reach a leaf."""

    index: int
    rng: np.random.Generator
    nodes: list[str] = field(default_factory=list)
    failures: int = 0
    counted: bool = False
    over: bool = False

    @property
    def at(self) -> str:
        return self.nodes[-1] if self.nodes else ROOT


class Walks:
    """Draws the paths of a round, adding domains to its tree on the way."""

    def __init__(
        self, journal: Journal, settings: Settings, prompts: PromptSet, sources: Sequence[str], encoder: Encoder
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._prompts = prompts
        self._sources = tuple(sources)
        self._encoder = encoder
        self._under_way: Counter[str] = Counter()

    async def drawn(self, asker: Asker) -> list[tuple[str, ...]]:
        """The paths (ids, first level to leaf) of the walks that reached a leaf, in the order of the walks.

        Sprouts that the budget does not allow end their walks.
        """
        began = self._journal.began
        walks = [Walk(index, np.random.default_rng([began.seed, index])) for index in range(began.paths)]
        wave = 0
        while True:
            waiting: dict[str, list[Walk]] = {}
            for walk in walks:
                if self._descend(walk):
                    waiting.setdefault(walk.at, []).append(walk)
            if not waiting:
                break
            await self._grow(asker, waiting, wave)
            wave += 1
        return [tuple(walk.nodes) for walk in walks if not walk.over]

    def _descend(self, walk: Walk) -> bool:
        """Walk on; True where the walk waits for a domain to be added."""
        tree = self._journal.tree
        if not walk.counted:
            walk.counted = True
            self._under_way[ROOT] += 1
        while not walk.over and len(walk.nodes) < tree.levels:
            try:
                step = walk_step(tree, walk.at, walk.rng, self._settings, self._under_way)
            except DeadEnd:
                self._start_again(walk)
                continue
            if step == SPROUT:
                return True
            self._enter(walk, step)
        return False

    def _enter(self, walk: Walk, node: str) -> None:
        walk.nodes.append(node)
        self._under_way[node] += 1

    def _start_again(self, walk: Walk) -> None:
        """From a place where nothing can be added now, back to the root; from the root there is nowhere to go."""
        if not walk.nodes:
            self._give_up(walk)
            return
        for node in walk.nodes:
            self._under_way[node] -= 1
        walk.nodes.clear()
        self._fail(walk)

    def _fail(self, walk: Walk) -> None:
        walk.failures += 1
        if walk.failures >= MOST_FAILURES:
            self._give_up(walk)

    def _give_up(self, walk: Walk) -> None:
        walk.over = True
        for node in (ROOT, *walk.nodes):
            self._under_way[node] -= 1

    async def _grow(self, asker: Asker, waiting: dict[str, list[Walk]], wave: int) -> None:
        """Ask for a domain at every place where walks wait, add what was found, and let the first of them go on."""
        batches: list[tuple[str, str, list[Call]]] = []
        for parent in waiting:
            step = f"r{self._journal.began.round}/sprout/{parent}/{wave}"
            batches.append((parent, step, self._calls(parent, step)))
        replies = iter(await asker.ask([call for _, _, calls in batches for call in calls]))
        for parent, step, calls in batches:
            found = sprouted(
                self._journal.tree,
                parent,
                [call.arm for call in calls],
                [next(replies) for _ in calls],
                self._prompts.reading.propose,
                self._encoder,
                self._settings.merge_threshold,
                call_seed(self._journal.began.seed, step),
            )
            if isinstance(found, Sprout):
                self._tell_sprouted(parent, found)
                self._enter(waiting[parent][0], found.node)
            elif asker.over and found == "unanswered":
                for walk in waiting[parent]:
                    self._give_up(walk)
            else:
                began = self._journal.began
                self._journal.tell(
                    [SproutFailed(at=self._journal.now, round=began.round, parent=parent, reason=found, step=step)]
                )
                for walk in waiting[parent]:
                    self._fail(walk)

    def _calls(self, parent: str, step: str) -> list[Call]:
        return propose_calls(
            self._journal.tree,
            parent,
            self._sources,
            self._prompts,
            self._settings.temperatures,
            self._journal.began.seed,
            step,
        )

    def _tell_sprouted(self, parent: str, found: Sprout) -> None:
        self._journal.tell(
            [
                Sprouted(
                    at=self._journal.now,
                    round=self._journal.began.round,
                    node=found.node,
                    parent=parent,
                    name=found.name,
                    votes=found.votes,
                    embedding=found.embedding,
                )
            ]
        )
