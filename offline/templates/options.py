"""What all `tokamak templates` commands share: the options that name the store, and how errors are told."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar

import typer

from encoders.protocol import EncoderUnavailable
from registry.config_file import ConfigError
from templates_store.database import TemplateStoreError
from templates_store.opening import open_store
from templates_store.store import STORE_FILE, TemplateStore
from traffic.log import LogError

DataDir = Annotated[
    Path, typer.Option("--data-dir", envvar="TOKAMAK_DATA_DIR", help="Data folder of the service; the store is in it.")
]
EncoderName = Annotated[str, typer.Option("--encoder", help="Encoder of the gateway (`routers.encoder`).")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Id of an API key; without it, templates for all.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]
DATA_DIR = Path("tokamak-data")
URL_VARIABLE = "TOKAMAK_TEMPLATES_URL"
"""Environment variable with the gateways' `templates.url`, if they share their templates."""
MISTAKE = 2
"""Exit code after a mistake of the user or a store that cannot be used."""


P = ParamSpec("P")
R = TypeVar("R")


def explaining(command: Callable[P, R]) -> Callable[P, R]:
    """The command with errors that a user can do something about told in one line on stderr, with exit code 2."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (TemplateStoreError, EncoderUnavailable, ConfigError, LogError, ValueError, OSError) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(MISTAKE) from None

    return run


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
