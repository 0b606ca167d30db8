"""Keys and limits: who may ask, what for, which models, how often and how much at a time. Per process.

Keys are kept as SHA-256 digests; a request's key is hashed and looked up, so how long a comparison takes depends on a
digest that nobody can choose, never on the key. The keys of the config are always there; those that were created by the
admin API are taken in as they change, and keep their running counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from registry.api_key_table import ALL_SCOPES, ApiKey, KeyScope
from registry.api_keys import digest_of
from registry.config import KeyConfig, LimitsConfig
from service.errors import ApiError
from service.guessing import Client, Guesses, too_many_guesses
from service.rates import Bucket

TYPICAL_ANSWER_TOKENS = 300
"""What is reserved for an answer whose length nobody has predicted."""


class Allowance(Protocol):
    """How much a key may do, as the config or the file of created keys says it. None: no limit."""

    @property
    def models(self) -> Sequence[str]: ...
    @property
    def requests_per_minute(self) -> int | None: ...
    @property
    def tokens_per_minute(self) -> int | None: ...
    @property
    def max_concurrent(self) -> int | None: ...


class Key:
    """One API key with its running counts; its rate limits are token buckets of one minute's allowance."""

    __slots__ = ("_clock", "active", "host", "id", "max_concurrent", "models", "requests", "scopes", "tokens")

    def __init__(
        self, config: KeyConfig | None, clock: Callable[[], float] = time.monotonic, *, key_id: str | None = None
    ) -> None:
        self.id = config.id if config else key_id
        self.scopes: frozenset[KeyScope] = frozenset(ALL_SCOPES)
        self.models: tuple[str, ...] = ("*",)
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.max_concurrent: int | None = None
        self.active = 0
        self.host: str | None = None
        """The address that the key was last used from."""
        self._clock = clock
        if config is not None:
            self.allow(config)

    def allow(self, allowance: Allowance) -> None:
        """Hold these limits from now on; what was used up stays used up."""
        self.models = tuple(allowance.models)
        self.max_concurrent = allowance.max_concurrent
        self.requests = self._resized(self.requests, allowance.requests_per_minute)
        self.tokens = self._resized(self.tokens, allowance.tokens_per_minute)

    def _resized(self, bucket: Bucket | None, per_minute: int | None) -> Bucket | None:
        if per_minute is None:
            return None
        if bucket is None:
            return Bucket(per_minute, clock=self._clock)
        if bucket.per_minute != per_minute:
            bucket.resize(per_minute)
        return bucket

    def may_use(self, model: str) -> bool:
        return allows(self.models, model)

    def admit(self) -> None:
        """Count one request. Raises ApiError 429 over a limit. Every admitted request ends with `release`."""
        if self.max_concurrent is not None and self.active >= self.max_concurrent:
            raise _rate_limited(f"Key {self.id!r} has {self.active} requests running, its limit.", 1.0)
        if self.requests is not None:
            wait_s = self.requests.wait_s(1.0)
            if wait_s > 0.0:
                raise _rate_limited(f"Key {self.id!r} may send {self.requests.per_minute} requests a minute.", wait_s)
            self.requests.take(1.0)
        self.active += 1

    def release(self) -> None:
        self.active -= 1

    def reserve_tokens(self, prompt_tokens: int, answer_tokens: int | None) -> int | None:
        """Reserve what a request is expected to take; None if the key has no such limit. `settle_tokens` ends it.

        Raises
        ------
        ApiError: 429, so much is not left of this minute's tokens.
        """
        if self.tokens is None:
            return None
        expected = prompt_tokens + (TYPICAL_ANSWER_TOKENS if answer_tokens is None else answer_tokens)
        wait_s = self.tokens.wait_s(expected)
        if wait_s > 0.0:
            raise _rate_limited(
                f"Key {self.id!r} may use {self.tokens.per_minute} tokens a minute; about {expected} are needed and "
                f"{max(int(self.tokens.level()), 0)} are left.", wait_s,
            )  # fmt: skip
        self.tokens.take(expected)
        return expected

    def settle_tokens(self, reserved: int, used: int) -> None:
        """The request is over: its reservation is replaced by what it used."""
        if self.tokens is None:
            return
        if used > reserved:
            self.tokens.take(used - reserved)
        else:
            self.tokens.give_back(reserved - used)

    @property
    def has_rates(self) -> bool:
        return self.requests is not None or self.tokens is not None

    def headers(self) -> list[tuple[bytes, bytes]]:
        """`x-ratelimit-*` of the limits that the key has."""
        of_requests = [] if self.requests is None else self.requests.headers(b"requests")
        return of_requests if self.tokens is None else of_requests + self.tokens.headers(b"tokens")


def allows(models: tuple[str, ...], model: str) -> bool:
    """Whether one of a key's globs matches a model's name."""
    return "*" in models or any(fnmatchcase(model, glob) for glob in models)


@dataclass(frozen=True, slots=True)
class Secret:
    """What one digest opens, and until when (Unix seconds)."""

    key: Key
    until: float = math.inf


class Limits:
    """All keys and the process-wide cap on running requests."""

    def __init__(
        self, config: LimitsConfig, environ: Mapping[str, str], clock: Callable[[], float] = time.time
    ) -> None:
        self._configured = {_digest(key, environ): Secret(Key(key)) for key in config.keys}
        self._created: dict[str, Key] = {}
        self._secrets: Mapping[bytes, Secret] = self._configured
        self._anonymous = None if config.keys or config.require_key else Key(None)
        self._guesses = Guesses()
        self._clock = clock
        self._max_concurrent = config.max_concurrent
        self.active = 0
        self.draining = False

    def take_in(self, keys: Iterable[ApiKey]) -> None:
        """Serve these created keys from now on, and none that was created before; they are there to be asked for.

        An endpoint that was open is closed for good: that the last key was revoked or lost invites nobody in.
        """
        self._anonymous = None
        created: dict[str, Key] = {}
        secrets: dict[bytes, Secret] = {}
        for stored in keys:
            settings = stored.settings
            created[stored.id] = key = self._created.get(stored.id) or Key(None, key_id=stored.id)
            key.allow(settings)
            key.scopes = frozenset(settings.scopes)
            ends = math.inf if settings.expires_at is None else settings.expires_at
            for secret in stored.secrets:
                until = math.inf if secret.valid_until is None else secret.valid_until
                secrets[secret.digest] = Secret(key, min(ends, until))
        self._created = created
        self._secrets = {**secrets, **self._configured}

    def authenticate(self, headers: Mapping[bytes, bytes], scope: KeyScope, client: Client = None) -> Key:
        """The key of a request. Raises ApiError 401, 403 outside its scopes, or 429 after too many wrong keys."""
        if self._anonymous is not None:
            return self._anonymous
        token = headers.get(b"authorization", b"")
        if token[:7].lower() != b"bearer ":
            raise _unknown("no key came" if not token else "what came is none")
        secret = self._secrets.get(digest_of(token[7:].strip()))
        if self._guesses:
            self._refuse_guesses(secret, client)
        if secret is None:
            self._guesses.wrong(client)
            raise _unknown("this key is not known")
        if secret.until <= self._clock():
            raise _unknown("this key has expired or was replaced")
        key = secret.key
        if client is not None:
            key.host = client[0]
        if scope not in key.scopes:
            raise ApiError(
                403, "permission_error", "scope_not_allowed",
                f"Key {key.id!r} has not the scope {scope!r}; it has: {', '.join(sorted(key.scopes))}.",
            )  # fmt: skip
        return key

    def _refuse_guesses(self, secret: Secret | None, client: Client) -> None:
        """Raise ApiError 429 if this address has sent too many wrong keys: then not even a right one is told apart.

        Only keys that were last used from the very address go on, so that one bad client behind it stops no good one.
        """
        wait_s = self._guesses.wait_s(client)
        if wait_s > 0.0 and (secret is None or client is None or secret.key.host != client[0]):
            raise too_many_guesses(wait_s)

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
    return digest_of(value.encode())


def _unknown(came: str) -> ApiError:
    return ApiError(
        401, "authentication_error", "invalid_api_key",
        f"An API key is needed and {came}. Send it as 'Authorization: Bearer <key>'.",
    )  # fmt: skip


def _rate_limited(message: str, wait_s: float) -> ApiError:
    return ApiError(429, "rate_limit_error", "rate_limit_exceeded", message, retry_after_s=math.ceil(wait_s))
