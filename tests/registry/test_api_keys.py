"""Are created keys kept as digests only, changed under ETags, audited, and whole whatever happens to the file?"""

from __future__ import annotations

import hashlib
import sqlite3
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry.api_key_table import ApiKeysError, KeySettings
from registry.api_keys import ANY, CREATED_ID, MAX_GRACE_S, ApiKeyConflict, ApiKeyMissing, ApiKeys, ApiKeyStale
from registry.config_file import ConfigError, parse_config


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(tmp_path: Path, clock: Clock) -> ApiKeys:
    return ApiKeys(tmp_path, clock)


def test_a_secret_is_random_and_kept_as_its_digest_only(keys: ApiKeys) -> None:
    made = [keys.create(KeySettings(name=f"k{n}"), by="ann") for n in range(20)]
    assert len({m.secret for m in made}) == len({m.key.id for m in made}) == 20
    for one in made:
        assert one.secret.startswith("sk-tokamak-")
        assert len(one.secret) == len("sk-tokamak-") + 43
        (kept,) = one.key.secrets
        assert kept.digest == hashlib.sha256(one.secret.encode()).digest()
        assert kept.hint == f"...{one.secret[-4:]}"
        assert one.secret.encode() not in keys.path.read_bytes()
        assert one.secret[len("sk-tokamak-") :].encode() not in keys.path.read_bytes()
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600


def test_the_file_is_read_again_only_when_it_has_changed(keys: ApiKeys) -> None:
    assert keys.read(0) is None
    first = keys.create(KeySettings(name="a"), by="ann").key
    found = keys.read(0)
    assert found is not None
    assert found.keys == (first,)
    assert keys.read(found.revision) is None
    keys.update(first.id, {"models": ("b*",)}, by="ann", if_match=first.etag)
    again = keys.read(found.revision)
    assert again is not None
    assert again.revision > found.revision
    assert again.keys[0].settings.models == ("b*",)


def test_rotation_keeps_the_old_secret_for_the_grace_time_and_no_older_one(keys: ApiKeys, clock: Clock) -> None:
    first = keys.create(KeySettings(name="a"), by="ann")
    second = keys.rotate(first.key.id, 60.0, by="ann", if_match=ANY)
    assert [s.valid_until for s in second.key.secrets] == [1_060.0, None]
    clock.now += 10
    third = keys.rotate(first.key.id, 60.0, by="ann", if_match=ANY)
    assert [(s.digest, s.valid_until) for s in third.key.secrets] == [
        (hashlib.sha256(second.secret.encode()).digest(), 1_070.0),
        (hashlib.sha256(third.secret.encode()).digest(), None),
    ]
    (only,) = keys.rotate(first.key.id, 0.0, by="ann", if_match=ANY).key.secrets
    assert only.valid_until is None


@pytest.mark.parametrize("grace_s", [-1.0, float("nan"), float("inf"), MAX_GRACE_S + 1])
def test_a_grace_time_is_bounded(keys: ApiKeys, grace_s: float) -> None:
    made = keys.create(KeySettings(name="a"), by="ann")
    with pytest.raises(ValueError, match="grace time"):
        keys.rotate(made.key.id, grace_s, by="ann", if_match=ANY)
    assert keys.get(made.key.id) == made.key


CHANGES: dict[str, Callable[[ApiKeys, str, str], object]] = {
    "update": lambda keys, key_id, seen: keys.update(key_id, {"models": ("x",)}, by="bob", if_match=seen),
    "rotate": lambda keys, key_id, seen: keys.rotate(key_id, 1.0, by="bob", if_match=seen),
    "revoke": lambda keys, key_id, seen: keys.revoke(key_id, by="bob", if_match=seen),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_needs_the_state_that_was_seen_and_is_audited(keys: ApiKeys, name: str) -> None:
    key = keys.create(KeySettings(name="a"), by="ann").key
    keys.update(key.id, {"max_concurrent": 3}, by="ann", if_match=key.etag)
    with pytest.raises(ApiKeyStale, match=r"is at \"2\" now, not at \"1\""):
        CHANGES[name](keys, key.id, key.etag)
    with pytest.raises(ApiKeyMissing):
        CHANGES[name](keys, "key_none", ANY)
    CHANGES[name](keys, key.id, keys.get(key.id).etag)
    assert [(c.action, c.by) for c in keys.audit()] == [("create", "ann"), ("update", "ann"), (name, "bob")]
    assert keys.audit()[1].changes == {"max_concurrent": 3}
    assert len(keys.audit(key.id, limit=1)) == 1
    assert keys.audit("key_none") == []


def test_a_revoked_key_is_kept_without_secrets_and_its_name_is_free(keys: ApiKeys) -> None:
    old = keys.create(KeySettings(name="a"), by="ann").key
    with pytest.raises(ApiKeyConflict, match="'a'"):
        keys.create(KeySettings(name="a"), by="ann")
    gone = keys.revoke(old.id, by="ann", if_match=ANY, why="lost")
    assert (gone.secrets, gone.state(2_000.0)) == ((), "revoked")
    for change in CHANGES.values():
        with pytest.raises(ApiKeyConflict, match="revoked"):
            change(keys, old.id, ANY)
    new = keys.create(KeySettings(name="a"), by="ann").key
    assert new.id != old.id
    assert [c.action for c in keys.audit()] == ["create", "revoke", "create"], "what was refused left no line"


def test_a_key_that_would_be_expired_is_not_made(keys: ApiKeys, clock: Clock) -> None:
    with pytest.raises(ValueError, match="future"):
        keys.create(KeySettings(name="a", expires_at=clock.now), by="ann")
    key = keys.create(KeySettings(name="a", expires_at=clock.now + 1), by="ann").key
    assert (key.state(clock.now), key.state(clock.now + 1)) == ("active", "expired")
    with pytest.raises(ValueError, match="future"):
        keys.update(key.id, {"expires_at": 3.0}, by="ann", if_match=ANY)


def test_of_many_who_change_the_same_state_one_wins(keys: ApiKeys) -> None:
    key = keys.create(KeySettings(name="a"), by="ann").key

    def change(number: int) -> bool:
        try:
            keys.update(key.id, {"max_concurrent": number}, by=str(number), if_match=key.etag)
        except ApiKeyStale:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(change, range(1, 9))) == 1
    assert len(keys.audit()) == 2


def test_a_file_that_cannot_be_used_says_what_to_do(keys: ApiKeys) -> None:
    keys.path.write_bytes(b"not a database, by far" * 100)
    with pytest.raises(ApiKeysError, match="corrupt"):
        keys.read()
    keys.path.unlink()
    keys.create(KeySettings(name="a"), by="ann")
    with sqlite3.connect(keys.path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(ApiKeysError, match="newer version"):
        keys.read()


def test_an_empty_file_holds_no_keys(keys: ApiKeys) -> None:
    """What a crash leaves between making the file and its tables."""
    keys.path.touch()
    assert keys.read() == (0, ())
    keys.create(KeySettings(name="a"), by="ann")


def test_a_key_of_the_config_cannot_pass_for_a_created_one(keys: ApiKeys) -> None:
    import re

    taken = keys.create(KeySettings(name="a"), by="ann").key.id
    assert re.fullmatch(CREATED_ID, taken)
    text = (
        "version: 1\nupstreams: {u: {base_url: 'http://127.0.0.1:1/v1'}}\nmodels: {m: {endpoints: [{upstream: u}]}}\n"
        f"limits: {{keys: [{{id: {taken}, key_env: K}}]}}\n"
    )
    with pytest.raises(ConfigError, match="those of created keys"):
        parse_config(text, "c.yaml", {"K": "x"})
