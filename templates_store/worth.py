"""What the measured worth of a template means for its use: its rank, its floor, and a fresh start.

How worth is measured is `routers.evidence.uplift`; from the traffic log, `offline.templates.worth`.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from registry.atomic_files import place_file
from templates_store.store import TemplateStore
from templates_store.template import Template, Worth

GAIN = 5.0
"""What one unit of expected uplift adds to the factor: ten points of score, half of a similarity."""
LEAST, MOST = 0.5, 1.5
"""Bounds of the factor: worth may not make a far template outrank a near one by more than this."""

DEFAULT_FLOOR = 0.7
"""Least similarity where none is configured and none was calibrated."""
FLOOR_FILE = "template-floor.json"
"""Name of the calibrated floor inside the data folder."""


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """A calibrated floor: the least similarity at which templates were seen to help.

    `encoder` is the hash of the encoder whose similarities were looked at; for another one the floor means nothing.
    `uplift`, `low` and `high` are those just above the floor; `exposures` is the number of observations behind it all.
    """

    min_similarity: float
    encoder: str
    uplift: float
    low: float
    high: float
    exposures: int
    calibrated_at: float


class FloorUnreadable(ValueError):
    """The file of the floor is not one. Says what to do."""


def factor(worth: Worth | None) -> float:
    """What the similarity of a template is multiplied with: 1 + 5 * expected uplift, in [0.5, 1.5]; 1 if unmeasured."""
    if worth is None or worth.expected is None:
        return 1.0
    return min(max(1.0 + GAIN * worth.expected, LEAST), MOST)


def unmeasured(now: float | None = None) -> Worth:
    """The worth of a template of which nothing is known yet."""
    return Worth(
        shown=0, control=0, wins=0, losses=0, uplift=None, low=None, high=None,
        updated_at=time.time() if now is None else now,
    )  # fmt: skip


def bring_back(store: TemplateStore, id_: str, reason: str | None = None) -> Template:
    """Put a template into use and forget what was measured of it: only what it does from now on counts.

    Raises
    ------
    TemplateStoreError: there is no such template, or it is retired.
    """
    known = id_ in store.worth()
    template = store.set_state(id_, "active", reason)
    if known:
        store.set_worth({id_: unmeasured()})
    return template


def fresh_starts(store: TemplateStore) -> dict[str, float]:
    """When each template that was ever put into use by `activate` last was, by id: what was before does not count."""
    return {change.template_id: change.at for change in store.changes_since(0) if change.event == "active"}


def write_floor(data_dir: Path, floor: Floor) -> None:
    """Put a calibrated floor where gateways of this data folder take it in."""
    place_file(data_dir / FLOOR_FILE, msgspec.json.encode(floor) + b"\n")


def read_floor(data_dir: Path) -> Floor | None:
    """The calibrated floor, None if there is none. Raises FloorUnreadable if the file is not one."""
    path = data_dir / FLOOR_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Floor)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, OSError) as error:
        raise FloorUnreadable(
            f"{path} is no floor ({error}); delete it, or run `tokamak templates calibrate-floor` again"
        ) from error
