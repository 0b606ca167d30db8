"""Keys and limits: who may ask, which models, how often and how much at a time. Per process.

Keys are kept as SHA-256 digests; a request's key is hashed and looked up, so no comparison depends on its content.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

from registry.config import KeyConfig, LimitsConfig
from service.errors import ApiError


class Key:
    """One API key with its running counts. The rate limit is a token bucket of one minute's allowance."""

    __slots__ = ("_clock", "_filled_at", "_tokens", "active", "id", "max_concurrent", "models", "per_minute")

    def __init__(self, config: KeyConfig | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.id = config.id if config else None
        self.models = tuple(config.models) if config else ("*",)
        self.per_minute = config.requests_per_minute if config else None
        self.max_concurrent = config.max_concurrent if config else None
        self.active = 0
        self._clock = clock
        self._tokens = float(self.per_minute or 0)
        self._filled_at = clock()

    def may_use(self, model: str) -> bool:
        return allows(self.models, model)

    def admit(self) -> None:
        """Count one request. Raises ApiError 429 over a limit. Every admitted request ends with `release`."""
        if self.max_concurrent is not None and self.active >= self.max_concurrent:
            raise _rate_limited(f"Key {self.id!r} has {self.active} requests running, its limit.", 1.0)
        if self.per_minute is not None:
            now = self._clock()
            refill = (now - self._filled_at) * self.per_minute / 60.0
            self._tokens, self._filled_at = min(float(self.per_minute), self._tokens + refill), now
            if self._tokens < 1.0:
                wait_s = (1.0 - self._tokens) * 60.0 / self.per_minute
                raise _rate_limited(f"Key {self.id!r} may send {self.per_minute} requests a minute.", wait_s)
            self._tokens -= 1.0
        self.active += 1

    def release(self) -> None:
        self.active -= 1


def allows(models: tuple[str, ...], model: str) -> bool:
    """Whether one of a key's globs matches a model's name."""
    return "*" in models or any(fnmatchcase(model, glob) for glob in models)


class Limits:
    """All keys and the process-wide cap on running requests."""

    def __init__(self, config: LimitsConfig, environ: Mapping[str, str]) -> None:
        self._keys = {_digest(key, environ): Key(key) for key in config.keys}
        self._anonymous = None if config.keys else Key(None)
        self._max_concurrent = config.max_concurrent
        self.active = 0
        self.draining = False

    def authenticate(self, headers: Mapping[bytes, bytes]) -> Key:
        """The key of a request. Raises ApiError 401."""
        if self._anonymous is not None:
            return self._anonymous
        token = headers.get(b"authorization", b"")
        if token[:7].lower() == b"bearer ":
            key = self._keys.get(hashlib.sha256(token[7:].strip()).digest())
            if key is not None:
                return key
        came = "no key came" if not token else "this key is not known"
        raise ApiError(
            401, "authentication_error", "invalid_api_key",
            f"An API key is needed and {came}. Send it as 'Authorization: Bearer <key>'.",
        )  # fmt: skip

    def admit(self, key: Key) -> None:
        """Count one request in. Raises ApiError 429 (the key's limits) or 503 (the process is full or draining)."""
        if self.draining:
            raise ApiError(503, "overloaded_error", "draining", "The service is shutting down.", retry_after_s=1.0)
        if self.active >= self._max_concurrent:
            raise ApiError(
                503, "overloaded_error", "overloaded",
                f"{self.active} requests are running, the limit of this process.", retry_after_s=1.0,
            )  # fmt: skip
        key.admit()
        self.active += 1

    def release(self, key: Key) -> None:
        key.release()
        self.active -= 1


def _digest(key: KeyConfig, environ: Mapping[str, str]) -> bytes:
    if key.sha256 is not None:
        return bytes.fromhex(key.sha256)
    value = environ.get(key.key_env or "", "")
    if not value:
        raise ValueError(f"limits.keys[{key.id!r}] needs 'sha256', or 'key_env' naming a variable that is set")
    return hashlib.sha256(value.encode()).digest()


def _rate_limited(message: str, wait_s: float) -> ApiError:
    return ApiError(429, "rate_limit_error", "rate_limit_exceeded", message, retry_after_s=wait_s)
