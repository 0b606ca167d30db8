"""Where knowledge trees lie in a data folder: one folder for each, named by what it is for.

    DATA/bohdi/shared/log.db            the tree of all: no tenant's traffic steers it unless an operator says so
    DATA/bohdi/tenant-<digest>/log.db   the tree of one tenant
    .../settings.yaml                   the settings of its rounds
    .../status.json                     what `tokamak bohdi status` says, as of the last change, for the admin API
    .../picture.svg                     the tree as its last round job has drawn it
    .../exports/<digest>/               training sets

A tenant's id does not show in the name of its folder.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

FOLDER: Final = "bohdi"
LOG_FILE: Final = "log.db"
SETTINGS_FILE: Final = "settings.yaml"
STATUS_FILE: Final = "status.json"
PICTURE_FILE: Final = "picture.svg"
EXPORTS: Final = "exports"
SHARED: Final = "shared"
"""Name of the tree that belongs to no tenant."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def tree_of(tenant: str) -> str:
    """The name of a tenant's tree; of the shared one if the tenant is empty."""
    return f"tenant-{hashlib.sha256(tenant.encode()).hexdigest()[:16]}" if tenant else SHARED


def tree_folder(data_dir: Path, tree: str) -> Path:
    """The folder of a tree. Raises ValueError if the name is none that a tree can have."""
    if not _NAME.fullmatch(tree):
        raise ValueError(f"a tree is named by up to 64 of a-z, 0-9, - and _ (such as {SHARED!r}), not {tree!r}")
    return data_dir / FOLDER / tree


def tree_log(data_dir: Path, tree: str) -> Path:
    """The episode log of a tree. Raises ValueError as `tree_folder` does."""
    return tree_folder(data_dir, tree) / LOG_FILE


def trees(data_dir: Path) -> list[str]:
    """The names of the trees that have a log, in order."""
    return sorted(path.parent.name for path in (data_dir / FOLDER).glob(f"*/{LOG_FILE}"))
