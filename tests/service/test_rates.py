"""Do token buckets hold their rates whatever comes, and do wrong keys run out?"""

from __future__ import annotations

import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.api_key_table import ApiKey, KeySecret, KeySettings
from registry.config import KeyConfig, LimitsConfig
from service.errors import ApiError
from service.guessing import GUESSES, MAX_ADDRESSES, Guesses, source_of
from service.limits import TYPICAL_ANSWER_TOKENS, Key, Limits
from service.rates import Bucket, duration

HERE = ("192.0.2.1", 5000)
THERE = ("192.0.2.2", 5000)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


STEPS = st.lists(st.tuples(st.floats(0, 90), st.integers(0, 300)), max_size=60)


@given(per_minute=st.integers(1, 200), steps=STEPS)
def test_no_stretch_of_time_gives_more_than_one_allowance_and_what_flows_in(
    per_minute: int, steps: list[tuple[float, int]]
) -> None:
    clock = Clock()
    bucket = Bucket(per_minute, clock=clock)
    takes: list[tuple[float, int]] = []
    for pause, amount in steps:
        clock.now += pause
        if amount <= per_minute and bucket.wait_s(amount) == 0.0:
            bucket.take(amount)
            takes.append((clock.now, amount))
    for first in range(len(takes)):
        taken = 0
        for at, amount in takes[first:]:
            taken += amount
            assert taken <= per_minute * (1 + (at - takes[first][0]) / 60) + 1e-6


@given(per_minute=st.integers(1, 1000), taken=st.integers(0, 3000), amount=st.integers(0, 3000))
def test_after_the_wait_it_may_be_taken_and_not_much_sooner(per_minute: int, taken: int, amount: int) -> None:
    clock = Clock()
    bucket = Bucket(per_minute, clock=clock)
    bucket.take(taken)
    wait_s = bucket.wait_s(amount)
    clock.now += wait_s * 0.99
    assert (bucket.wait_s(amount) > 0.0) == (wait_s > 0.0)
    clock.now += wait_s * 0.01 + 1e-6
    assert bucket.wait_s(amount) == 0.0


@given(steps=st.lists(st.tuples(st.integers(0, 800), st.integers(0, 800), st.booleans()), max_size=40))
def test_trued_up_tokens_are_those_that_were_used(steps: list[tuple[int, int, bool]]) -> None:
    """Reservations leave no trace: at the end just what was used is missing, whatever was expected and refused."""
    clock, used_up = Clock(), 0
    key = Key(KeyConfig(id="a", key_env="A", tokens_per_minute=1_000), clock)
    for expected, used, fails in steps:
        if 1_000 - used_up < min(expected, 1_000):
            with pytest.raises(ApiError):
                key.reserve_tokens(expected, 0)
            continue
        reserved = key.reserve_tokens(expected, 0)
        assert reserved == expected
        key.settle_tokens(reserved, 0 if fails else used)
        used_up += 0 if fails else used
    assert key.tokens is not None
    assert key.tokens.level() == pytest.approx(1_000 - used_up)


def test_tokens_are_refused_with_the_time_until_there_are_enough() -> None:
    clock = Clock()
    key = Key(KeyConfig(id="a", key_env="A", tokens_per_minute=600), clock)
    assert key.reserve_tokens(100, None) == 100 + TYPICAL_ANSWER_TOKENS
    with pytest.raises(ApiError, match="about 500 are needed and 200 are left") as refused:
        key.reserve_tokens(400, 100)
    assert refused.value.retry_after_s == 30
    clock.now += 30
    assert key.reserve_tokens(400, 100) == 500
    clock.now += 120
    assert key.reserve_tokens(10_000, 0) == 10_000, "what never fits is let in once nothing else has been used"
    clock.now += 60
    with pytest.raises(ApiError):
        key.reserve_tokens(1, 0)


def test_the_headers_are_those_of_openai() -> None:
    clock = Clock()
    key = Key(KeyConfig(id="a", key_env="A", requests_per_minute=10, tokens_per_minute=6_000), clock)
    key.admit()
    key.reserve_tokens(1_000, 500)
    assert dict(key.headers()) == {
        b"x-ratelimit-limit-requests": b"10", b"x-ratelimit-remaining-requests": b"9",
        b"x-ratelimit-reset-requests": b"6s", b"x-ratelimit-limit-tokens": b"6000",
        b"x-ratelimit-remaining-tokens": b"4500", b"x-ratelimit-reset-tokens": b"15s",
    }  # fmt: skip
    assert not Key(KeyConfig(id="a", key_env="A")).has_rates


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.0, b"0s"), (0.0001, b"1ms"), (0.12, b"120ms"), (1.2, b"2s"), (60.0, b"1m0s"), (363, b"6m3s")],
)
def test_times_are_told_as_openai_does(seconds: float, told: bytes) -> None:
    assert duration(seconds) == told


def stored(secret: bytes, key_id: str = "key_a", until: float | None = None, **settings: object) -> ApiKey:
    return ApiKey(
        id=key_id, settings=KeySettings(name="a", **settings), revision=1, created_at=0.0, created_by="x",  # type: ignore[arg-type]
        revoked_at=None,
        secrets=(KeySecret(digest=hashlib.sha256(secret).digest(), hint="", created_at=0.0, valid_until=until),),
    )  # fmt: skip


def bearer(key: str) -> dict[bytes, bytes]:
    return {b"authorization": f"Bearer {key}".encode()}


def code_of(limits: Limits, key: str, client: tuple[str, int] = HERE) -> str | None:
    try:
        limits.authenticate(bearer(key), "chat", client)
    except ApiError as refused:
        return refused.code
    return None


def test_an_open_endpoint_closes_with_the_first_key_and_stays_closed() -> None:
    limits = Limits(LimitsConfig(), {})
    assert limits.authenticate({}, "chat").id is None
    limits.take_in([stored(b"one")])
    assert code_of(limits, "two") == "invalid_api_key"
    assert code_of(limits, "one") is None
    limits.take_in([])
    assert code_of(limits, "one") == "invalid_api_key"
    closed = Limits(LimitsConfig(require_key=True), {})
    assert code_of(closed, "one") == "invalid_api_key"


def test_a_key_keeps_its_counts_when_it_is_changed() -> None:
    limits = Limits(LimitsConfig(), {})
    limits.take_in([stored(b"one", requests_per_minute=10, tokens_per_minute=100)])
    key = limits.authenticate(bearer("one"), "chat")
    limits.admit(key)
    key.reserve_tokens(60, 0)
    limits.take_in([stored(b"two", requests_per_minute=20, models=("a",), tokens_per_minute=50)])
    assert limits.authenticate(bearer("two"), "chat") is key
    assert key.active == 1
    assert not key.may_use("b")
    assert key.requests is not None
    assert key.tokens is not None
    assert 9 <= key.requests.level() < 10
    assert 40 <= key.tokens.level() < 50
    limits.take_in([stored(b"two")])
    assert not key.has_rates


def test_secrets_end_to_the_second() -> None:
    clock = Clock()
    limits = Limits(LimitsConfig(), {}, clock)
    limits.take_in([stored(b"one", until=200.0, expires_at=300.0), stored(b"two", "key_b", expires_at=150.0)])
    clock.now = math.nextafter(150.0, 0)
    assert (code_of(limits, "one"), code_of(limits, "two")) == (None, None)
    clock.now = 150.0
    assert (code_of(limits, "one"), code_of(limits, "two")) == (None, "invalid_api_key")
    clock.now = 200.0
    assert code_of(limits, "one") == "invalid_api_key"


def test_a_created_key_never_takes_the_place_of_one_of_the_config() -> None:
    limits = Limits(LimitsConfig(keys=[KeyConfig(id="mine", key_env="A")]), {"A": "one"})
    limits.take_in([stored(b"one")])
    assert limits.authenticate(bearer("one"), "chat").id == "mine"


def test_scopes_are_checked() -> None:
    limits = Limits(LimitsConfig(), {})
    limits.take_in([stored(b"one", scopes=("chat", "models"))])
    assert limits.authenticate(bearer("one"), "models").id == "key_a"
    with pytest.raises(ApiError, match="it has: chat, models") as refused:
        limits.authenticate(bearer("one"), "metrics")
    assert (refused.value.status, refused.value.code) == (403, "scope_not_allowed")


def test_after_too_many_wrong_keys_even_a_right_one_is_not_told_apart() -> None:
    limits = Limits(LimitsConfig(), {})
    limits.take_in([stored(b"one"), stored(b"two", "key_b")])
    assert code_of(limits, "one") is None, "this key was used from here before"
    assert {code_of(limits, f"guess {n}") for n in range(GUESSES)} == {"invalid_api_key"}
    assert code_of(limits, "guess") == "too_many_wrong_keys"
    assert code_of(limits, "two") == "too_many_wrong_keys", "a guess that is right must look like one that is wrong"
    assert code_of(limits, "one") is None, "one bad client stops no good one"
    assert code_of(limits, "two", THERE) is None
    assert code_of(limits, "guess", THERE) == "invalid_api_key"


def test_guesses_come_back_one_by_one() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    assert not guesses
    for _ in range(GUESSES):
        assert guesses.wait_s(HERE) == 0.0
        guesses.wrong(HERE)
    assert guesses.wait_s(HERE) == pytest.approx(10.0)
    assert guesses.wait_s(THERE) == 0.0
    clock.now += 10.001
    assert guesses.wait_s(HERE) == 0.0
    guesses.wrong(HERE)
    assert guesses.wait_s(HERE) > 9.0
    clock.now += 3_600
    assert guesses.wait_s(HERE) == 0.0
    assert not guesses, "who has been quiet for long is forgotten"


def test_addresses_are_bounded() -> None:
    guesses = Guesses(Clock())
    for number in range(MAX_ADDRESSES + 5):
        guesses.wrong((f"host-{number}", 1))
    assert len(guesses._left) == MAX_ADDRESSES


@pytest.mark.parametrize(
    ("client", "source"),
    [
        (None, "unknown"),
        (HERE, "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2::"),
        (("2001:db8:1:2:ffff::1", 1), "2001:db8:1:2::"),
        (("fe80::1%eth0", 1), "fe80::"),
        (("::ffff:192.0.2.1", 1), "192.0.2.1"),
        (("no:address", 1), "no:address"),
    ],
)
def test_a_network_of_ipv6_is_one_source(client: tuple[str, int] | None, source: str) -> None:
    assert source_of(client) == source
