"""Who learns from which queries and is judged on which others, by content alone."""

from __future__ import annotations

from typing import Final

import numpy as np

from routers.protocol import Outcomes
from routers.rows import positions, split, subset

TEST_SHARE = 0.25
IN_DISTRIBUTION, OUT_OF_DISTRIBUTION = "in", "out"
KINDS: Final = (IN_DISTRIBUTION, OUT_OF_DISTRIBUTION)


def parts(outcomes: Outcomes, kind: str, seed: int) -> tuple[Outcomes, Outcomes] | None:
    """(training part, test part), or None where this kind of split is not possible.

    In distribution a quarter of the queries is the test part, by a hash of their text. Out of distribution whole tasks
    are, about a third of them by a hash of their name; that needs two tasks.
    """
    if kind == IN_DISTRIBUTION:
        return split(outcomes, TEST_SHARE, f"laboratory-{seed}")
    if outcomes.tasks is None or len(set(outcomes.tasks)) < 2:
        return None
    unseen = unseen_tasks(set(outcomes.tasks), seed)
    away = np.array([task in unseen for task in outcomes.tasks])
    return subset(outcomes, np.flatnonzero(~away)), subset(outcomes, np.flatnonzero(away))


def unseen_tasks(tasks: set[str], seed: int) -> frozenset[str]:
    """About a third of at least two tasks, at least one."""
    names = tuple(sorted(tasks))
    order = np.argsort(positions(names, f"laboratory-tasks-{seed}"), kind="stable")
    return frozenset(names[i] for i in order[: max(1, round(len(names) / 3))].tolist())
