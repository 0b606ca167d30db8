"""What all `tokamak templates` commands share: the options that name the store, and how errors are told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from offline.explaining import explaining_with
from registry.config_file import ConfigError
from templates_store.database import TemplateStoreError
from templates_store.opening import open_store
from templates_store.store import STORE_FILE, TemplateStore

DataDir = Annotated[
    Path, typer.Option("--data-dir", envvar="TOKAMAK_DATA_DIR", help="Data folder of the service; the store is in it.")
]
EncoderName = Annotated[str, typer.Option("--encoder", help="Encoder of the gateway (`routers.encoder`).")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Id of an API key; without it, templates for all.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]
DATA_DIR = Path("tokamak-data")
URL_VARIABLE = "TOKAMAK_TEMPLATES_URL"
"""Environment variable with the gateways' `templates.url`, if they share their templates."""

explaining = explaining_with(lambda: (TemplateStoreError, ConfigError))


@contextmanager
def opened(data_dir: Path, *, make: bool = False) -> Iterator[TemplateStore]:
    """The store that is configured: the one in the Redis that `URL_VARIABLE` names, else the one in the data folder.

    Raises TemplateStoreError if the latter is not there, unless it is to be made.
    """
    path, url = data_dir / STORE_FILE, os.environ.get(URL_VARIABLE)
    if url is None and not make and not path.exists():
        raise TemplateStoreError(f"there is no template store {path}; `tokamak templates build` or `add` makes one")
    with open_store(data_dir, url) as store:
        yield store


@contextmanager
def if_there(data_dir: Path) -> Iterator[TemplateStore | None]:
    """The store that is configured, or None if there is none yet; none is made."""
    if os.environ.get(URL_VARIABLE) is None and not (data_dir / STORE_FILE).exists():
        yield None
        return
    with opened(data_dir) as store:
        yield store
