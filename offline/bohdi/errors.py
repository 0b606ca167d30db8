"""What can be wrong with an episode log as a file."""

from __future__ import annotations


class EpisodeLogError(Exception):
    """The log cannot be opened, read or written. The message says what to do."""


class LogHeld(EpisodeLogError):
    """Another process, or another handle of this one, writes the log; the message says which and since when."""
