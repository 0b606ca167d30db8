"""Jobs on a knowledge tree, and what each may be asked for. Queued by the admin API, run by a worker.

Their target is the tree, so that no two of a kind run on one tree at once; only one process may write a tree's log.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from registry.bohdi_trees import SHARED, tree_of

BOHDI_ROUND: Final = "bohdi_round"
BOHDI_EXPORT: Final = "bohdi_export"
BOHDI_TRAFFIC: Final = "bohdi_traffic"
BOHDI_RETIRE: Final = "bohdi_retire"


class _Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    tree: str = SHARED

    def to_json(self) -> dict[str, Any]:
        """What is stored with the job; defaults are left out, so that equal wishes are equal."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built


class RoundArguments(_Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Run so many rounds on a tree. `settings` become the tree's if given; a tree without any needs them.

    `tenant`: whose tree it is, when it is planted; its name is then `registry.bohdi_trees.tree_of(tenant)`. `dry_run`:
    only say what a round would take.
    """

    rounds: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    tenant: str = ""
    settings: dict[str, Any] | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.tenant and self.tree != tree_of(self.tenant):
            raise ValueError(f"the tree of this tenant is called {tree_of(self.tenant)!r}, not {self.tree!r}")


class SetArguments(_Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Draw a training set from a tree's log and write it to its folder.

    `size`: examples, at most. `replay_share`: of them, from earlier versions of the target; as the settings say if left
    out. `licensed`: only answers whose licences are known to allow training. `source_share`: unchecked answers of one
    source make up no more than this part.
    """

    size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1000
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    replay_share: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    licensed: bool = False
    source_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class TrafficArguments(_Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Map the queries since the last time to a tree's leaves. `all_keys`: those of all keys, for the shared tree."""

    all_keys: bool = False


class RetireArguments(_Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Take a node of a tree, and all below it, out of use for good."""

    node: Annotated[str, msgspec.Meta(min_length=1)]
    reason: str = "an operator's wish"


def round_arguments(stated: Any) -> RoundArguments:
    """Raises ValueError, naming the field, if the arguments are wrong."""
    return msgspec.convert(stated, RoundArguments)


def set_arguments(stated: Any) -> SetArguments:
    """Raises ValueError, naming the field, if the arguments are wrong."""
    return msgspec.convert(stated, SetArguments)


def traffic_arguments(stated: Any) -> TrafficArguments:
    """Raises ValueError, naming the field, if the arguments are wrong."""
    return msgspec.convert(stated, TrafficArguments)


def retire_arguments(stated: Any) -> RetireArguments:
    """Raises ValueError, naming the field, if the arguments are wrong."""
    return msgspec.convert(stated, RetireArguments)
