"""The events of one round, as they happen or happen again.

A round is a function of the tree that it began with, its seed and the replies. When it goes on after a crash it is run
again from its beginning, on that tree: what it says again is checked off against the log, and what is new is appended.
Events that others put into the log in between (a node was retired, traffic was mapped) are folded where they stand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from offline.bohdi.errors import EpisodeLogError
from offline.bohdi.events import AnyEvent, Contested, Reborn, RoundBegan, RoundEnded, Sprouted, SproutFailed
from offline.bohdi.log import EpisodeLog
from offline.bohdi.tree import Tree

_OWN = (Sprouted, SproutFailed, Contested, Reborn, RoundEnded)


class RoundDiverged(EpisodeLogError):
    """A round that goes on does not come to what is in its log. The message says what to do."""


class Journal:
    """The events of a round that has begun.

    Attributes
    ----------
    began: the round's first event.
    tree: the knowledge tree as of the last event that was told here; the round's own.
    told: what was told here, oldest first.
    """

    def __init__(self, log: EpisodeLog, began: RoundBegan, tree: Tree, recorded: Sequence[AnyEvent]) -> None:
        """`tree`: as of `began`. `recorded`: what the log holds after it."""
        self.began = began
        self.tree = tree
        self.told: list[AnyEvent] = []
        self._log = log
        self._recorded = list(recorded)
        self._place = 0
        self._take_in_others()

    @property
    def now(self) -> float:
        """Unix seconds, for the `at` of events."""
        return time.time()

    def tell(self, events: Sequence[AnyEvent]) -> None:
        """Put what has happened into the log, in one transaction, and into the tree.

        Raises
        ------
        RoundDiverged: something else happened when the round was run before.
        EpisodeLogError: the log cannot be written.
        """
        new = [event for event in events if not self._told_before(event)]
        if new:
            self._log.append(new)
            for event in new:
                self.tree.apply(event)
        self.told += events

    def rest(self) -> list[AnyEvent]:
        """What the log holds of the round and was not told here yet."""
        return self._recorded[self._place :]

    def _told_before(self, event: AnyEvent) -> bool:
        if self._place == len(self._recorded):
            return False
        recorded = self._recorded[self._place]
        if msgspec.structs.replace(event, at=recorded.at) != recorded:
            raise RoundDiverged(
                f"round {self.began.round} was stopped after event {_said(recorded)}, and going on it comes to "
                f"{_said(event)}: its settings, encoder or checkers have changed since. Put them back, or end the "
                "round as it is: `tokamak bohdi end-round`"
            )
        self.tree.apply(recorded)
        self._place += 1
        self._take_in_others()
        return True

    def _take_in_others(self) -> None:
        while self._place < len(self._recorded) and not isinstance(self._recorded[self._place], _OWN):
            self.tree.apply(self._recorded[self._place])
            self._place += 1


def open_round(log: EpisodeLog) -> Journal | None:
    """The journal of the round that was begun and not ended; None if there is none."""
    tree = log.tree()
    number = log.began(tree.round) if tree.round else None
    if number is None:
        return None
    events = [event for _, event in log.events(after=number - 1)]
    began = events[0]
    if not isinstance(began, RoundBegan) or any(
        isinstance(event, RoundEnded) and event.round == began.round for event in events
    ):
        return None
    return Journal(log, began, log.tree(until=number), events[1:])


def begin_round(log: EpisodeLog, event: Callable[[Tree], RoundBegan]) -> Journal:
    """Begin a round, with the event that `event` makes for the tree as it is."""
    tree = log.tree()
    began = event(tree)
    # The tree is kept as it is here, so that a round that is run again does not fold the whole log.
    log.snapshot()
    log.append([began])
    tree.apply(began)
    return Journal(log, began, tree, ())


def _said(event: AnyEvent) -> str:
    place = event.step if isinstance(event, Contested | SproutFailed) else getattr(event, "node", "")
    return f"{type(event).__name__} {place}".strip()
