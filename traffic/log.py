"""The contract of the traffic log. `traffic.stores` opens the embedded or the shared one; callers cannot tell which.

Writing never blocks the caller and never raises on the request path: `append` enqueues, a writer commits in groups.
`flush` waits until everything appended before it is durable. Reading is for the offline half and the admin API.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec

from traffic.records import Feedback, Interaction, Score


class LogError(Exception):
    """The log cannot be opened, or did not make something durable. The message says what to do."""


class LogStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of one log handle, kept as running figures (never counted over the rows)."""

    queue_depth: int
    written: int
    dropped: int
    last_error: str | None


class TrafficLog(Protocol):
    """What the service writes and the offline half reads."""

    def append(self, record: Interaction | Feedback | Score) -> None:
        """Enqueue one record; returns at once. A full queue drops the record, counts it and logs an alarm."""

    async def flush(self) -> None:
        """Return when every record appended before this call is durable.

        Raises LogError if records were dropped since the last flush, or if the store refuses writes for too long; what
        is queued stays queued then.
        """

    async def close(self) -> None:
        """Flush and release everything. Appending afterwards raises RuntimeError.

        Raises LogError, after releasing everything, if records could not be made durable.
        """

    def stats(self) -> LogStats: ...

    def backlog(self) -> int:
        """Records that are not durable yet; cheap enough to ask at every request."""

    async def interaction(self, interaction_id: str) -> Interaction | None:
        """The interaction, written or still queued, whose `id`, else `answer_id`, else `client_request_id` this is.

        The newest one if several share an answer or client id; None if there is none. All three are indexed.
        """

    async def feedback_by_idempotency_key(self, key: str) -> Feedback | None: ...

    def read_interactions(
        self, since: float = 0.0, until: float | None = None, *, content: bool = True
    ) -> Iterator[Interaction]:
        """All committed interactions with `since <= created_at < until`, oldest first, streamed in pages.

        Without `content` they come without `query_text`, `request` and `response`, which is much faster on SQLite.
        """

    def read_feedback(self, since: float = 0.0, until: float | None = None) -> Iterator[Feedback]: ...

    def read_scores(self, since: float = 0.0, until: float | None = None) -> Iterator[Score]: ...
