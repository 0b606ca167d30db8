"""How often one source address may send a secret that is wrong.

An IPv6 host owns a whole /64 as a rule, so that is one address here. Nothing is read from `x-forwarded-for`, which
anybody may write: behind a proxy all clients have the proxy's address.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from service.errors import ApiError
from service.rates import Bucket

GUESSES = 30
"""Wrong secrets in a row that an address may send at once: a fleet that starts with a stale key is no attack."""
GUESSES_PER_MINUTE = 6
"""And so many a minute from then on."""
MAX_ADDRESSES = 10_000
"""Addresses remembered; beyond it the one that has been quiet for longest is forgotten."""
UNKNOWN = "unknown"

Client = tuple[str, int] | None
"""ASGI's `scope["client"]`."""


class Guesses:
    """The wrong secrets of late, by source. Empty as long as nobody errs, and then it costs a request nothing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: OrderedDict[str, Bucket] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._left)

    def wait_s(self, client: Client) -> float:
        """Seconds until this source may send a wrong secret again; 0.0 if it may now."""
        source = source_of(client)
        bucket = self._left.get(source)
        if bucket is None:
            return 0.0
        if bucket.level() >= bucket.capacity:
            del self._left[source]
        return bucket.wait_s(1.0)

    def wrong(self, client: Client) -> None:
        """A wrong secret came."""
        source = source_of(client)
        bucket = self._left.get(source)
        if bucket is None:
            bucket = self._left[source] = Bucket(GUESSES_PER_MINUTE, GUESSES, self._clock)
            if len(self._left) > MAX_ADDRESSES:
                self._left.popitem(last=False)
        self._left.move_to_end(source)
        bucket.take(1.0)


def too_many_guesses(wait_s: float) -> ApiError:
    return ApiError(
        429, "rate_limit_error", "too_many_wrong_keys",
        "Too many wrong keys came from this address; none is looked at before 'Retry-After' has passed.",
        retry_after_s=math.ceil(wait_s),
    )  # fmt: skip


def source_of(client: Client) -> str:
    """The address that guesses are counted by."""
    host = UNKNOWN if client is None else client[0]
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)).network_address)
