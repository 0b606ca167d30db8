"""Commands that tell a user's mistakes in one line, with an exit code of their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import typer

from encoders.protocol import EncoderUnavailable
from registry.artifacts import ArtifactError
from traffic.log import LogError

MISTAKE = 2
"""Exit code after a mistake of the user, or data that nothing can be done with."""

P = ParamSpec("P")
R = TypeVar("R")
Faults = Callable[[], tuple[type[Exception], ...]]
"""The errors of a part that a user can do something about; asked when one is raised, so that they may come late."""


def explaining_with(faults: Faults, extra: str = "learn") -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator of commands: these errors, and those of the registry, the log and the machine, are told on stderr.

    `extra`: what to install where a package is missing.
    """

    def explaining(command: Callable[P, R]) -> Callable[P, R]:
        @wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return command(*args, **kwargs)
            except ModuleNotFoundError as error:
                told = f"{error.name} is not installed here; run `pip install 'tokamak[{extra}]'`"
            except (ArtifactError, EncoderUnavailable, LogError, ValueError, OSError) as error:
                told = str(error)
            except faults() as error:
                told = str(error)
            typer.echo(f"error: {told}", err=True)
            raise typer.Exit(MISTAKE)

        return run

    return explaining


def explaining(command: Callable[P, R]) -> Callable[P, R]:
    """`explaining_with` for commands that raise no errors of their own."""
    return explaining_with(tuple)(command)
