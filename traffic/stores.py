"""Where a traffic log is kept, by its URL."""

from __future__ import annotations

from traffic.log import TrafficLog


def open_log(url: str) -> TrafficLog:
    """Open the log that `url` names: `sqlite:///path/to/file.db` (embedded) or `redis://host:port/db` (shared)."""
    if url.startswith("sqlite:///"):
        from traffic.sqlite_log import SqliteLog

        return SqliteLog(url.removeprefix("sqlite:///"))
    if url.startswith(("redis://", "rediss://")):
        from traffic.redis_log import RedisLog

        return RedisLog(url)
    raise ValueError(f"log url must start with sqlite:/// or redis://, got {url!r}")
