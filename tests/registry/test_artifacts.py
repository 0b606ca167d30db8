from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from registry import artifacts as module
from registry.artifacts import Artifact, ArtifactError, Artifacts

OLD, NEW = {"x": np.arange(4.0)}, {"x": np.arange(5.0)}


def publish(store: Artifacts, arrays: dict[str, Any], name: str = "cluster") -> str:
    return store.publish("router", name, arrays, {"encoder": "0123456789abcdef"}, {"quality": 0.5}).version


def test_a_version_comes_back_with_its_arrays_meta_and_evidence(tmp_path: Path) -> None:
    store = Artifacts(tmp_path)
    transposed = np.arange(6, dtype=np.float32).reshape(2, 3).T
    manifest = store.publish("router", "cluster", {"t": transposed}, {"encoder": "ab", "k": [1]}, {"quality": 0.5})
    artifact = Artifacts(tmp_path).load("router", manifest.version)
    assert np.array_equal(artifact.arrays["t"], transposed)
    assert artifact.manifest == manifest
    assert (manifest.encoder, manifest.evidence, manifest.meta["k"]) == ("ab", {"quality": 0.5}, [1])
    assert manifest.version.startswith("cluster@")


def test_the_same_content_is_the_same_version_and_other_content_is_not(tmp_path: Path) -> None:
    store = Artifacts(tmp_path)
    first = publish(store, OLD)
    assert publish(store, {"x": np.arange(4.0)}) == first
    assert store.versions("router")[0].version == first
    others = {
        publish(store, NEW),
        store.publish("router", "cluster", OLD, {"encoder": "another"}, {"quality": 0.5}).version,
        store.publish("router", "cluster", OLD, {"encoder": "0123456789abcdef"}, {"quality": 0.6}).version,
    }
    assert len(others | {first}) == 4
    assert {manifest.version for manifest in store.versions("router")} == others | {first}


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("abc"),
        st.one_of(
            hnp.arrays(kind, hnp.array_shapes(max_dims=3, min_side=0)) for kind in (np.float32, np.int64, np.uint8)
        ),
        min_size=1,
    )
)
def test_any_arrays_come_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any]) -> None:
    store = Artifacts(tmp_path_factory.mktemp("any"))
    loaded = store.load("router", publish(store, arrays)).arrays
    assert {key: (value.dtype, value.shape, value.tobytes()) for key, value in loaded.items()} == {
        key: (value.dtype, value.shape, value.tobytes()) for key, value in arrays.items()
    }


def test_rolling_back_may_go_further(tmp_path: Path) -> None:
    store = Artifacts(tmp_path)
    first, second, third = (store.publish("router", "v", {"x": np.array([n])}, {}).version for n in range(3))
    for version in (first, second, first, third):
        store.deploy("router", version)
    with pytest.raises(ArtifactError, match="has not served before"):
        store.roll_back("router", "v@00000000")
    assert store.roll_back("router", second) == second
    assert (store.deployed("router"), store.history("router")) == (second, (first,))


def test_deploying_keeps_a_history_to_roll_back_along(tmp_path: Path) -> None:
    store = Artifacts(tmp_path)
    assert store.deployed("router") is None
    with pytest.raises(ArtifactError, match="nothing to roll back"):
        store.roll_back("router")
    old, new = publish(store, OLD), publish(store, NEW)
    store.deploy("router", old)
    store.deploy("router", new)
    store.deploy("router", new)
    assert Artifacts(tmp_path).deployed("router") == new
    assert store.roll_back("router") == old
    assert store.deployed("router") == old
    with pytest.raises(ArtifactError, match="no earlier router"):
        store.roll_back("router")
    assert store.deployed("router") == old


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "arrays.safetensors").write_bytes(b""), "truncated or corrupt"),
        (lambda folder: truncate(folder / "arrays.safetensors"), "truncated or corrupt"),
        (lambda folder: flip(folder / "arrays.safetensors"), "truncated or corrupt"),
        (lambda folder: (folder / "arrays.safetensors").unlink(), "cannot be read"),
        (lambda folder: truncate(folder / "manifest.json"), "cannot be read"),
        (lambda folder: (folder / "manifest.json").unlink(), "cannot be read"),
        (lambda folder: replace(folder / "manifest.json", '"layout": 1', '"layout": 9'), "update it"),
        (lambda folder: replace(folder / "manifest.json", '"kind": "router"', '"kind": "templates"'), "says it is"),
    ],
)
def test_a_damaged_version_is_refused_not_deployed_and_healed_by_publishing_again(
    tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    store = Artifacts(tmp_path)
    good, version = publish(store, OLD), publish(store, NEW)
    store.deploy("router", good)
    change(tmp_path / "router" / version)
    with pytest.raises(ArtifactError, match=message):
        store.load("router", version)
    with pytest.raises(ArtifactError, match=message):
        store.deploy("router", version)
    assert store.deployed("router") == good
    assert publish(store, NEW) == version
    assert np.array_equal(store.load("router", version).arrays["x"], NEW["x"])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_errors_name_what_is_there(tmp_path: Path) -> None:
    store = Artifacts(tmp_path)
    version = publish(store, OLD)
    with pytest.raises(ArtifactError, match=re.escape(f"there are: {version}")):
        store.load("router", "cluster@00000000")
    with pytest.raises(ArtifactError, match="there are: none"):
        store.load("templates", version)
    for wrong in ("../router", "a/b", "cluster", ""):
        with pytest.raises(ArtifactError, match=r"looks like name@"):
            store.load("router", wrong)
        with pytest.raises(ArtifactError, match=r"must match|looks like"):
            store.load(wrong + "/", version)
        with pytest.raises(ArtifactError, match="must match"):
            store.publish("router", wrong + "/", OLD, {})
    with pytest.raises(ArtifactError, match="must be JSON"):
        store.publish("router", "cluster", OLD, {"x": object()})
    with pytest.raises(ArtifactError, match="cannot hold"):
        store.publish("router", "cluster", {"x": np.array(["text"])}, {})
    (tmp_path / "router" / "deployed.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"deployed\.json cannot be read"):
        store.deployed("router")


def state(root: Path) -> tuple[str | None, int]:
    """What is deployed and how many versions there are; verifies that all of them load."""
    store = Artifacts(root)
    versions = store.versions("router")
    loaded: list[Artifact] = [store.load("router", manifest.version) for manifest in versions]
    return store.deployed("router"), len(loaded)


def run_until_crash(step: int, act: Callable[[], None]) -> bool:
    """Run `act` in a child that dies, without clean-up, before the given line of the module; True if it got there."""
    child = os.fork()
    if child == 0:
        left = step

        def trace(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal left
            if frame.f_code.co_filename != module.__file__:
                return None
            if event == "line":
                left -= 1
                if left == 0:
                    os._exit(7)
            return trace

        sys.settrace(trace)
        act()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_crash_at_any_point_leaves_the_old_state_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a dead process wrote is visible without fsync, which would only make hundreds of runs slow.
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    new = publish(Artifacts(tmp_path / "elsewhere"), NEW)
    crashes, reached = 0, set()
    for step in range(1, 1000, 2):
        root = tmp_path / str(step)
        store = Artifacts(root)
        old = publish(store, OLD)
        store.deploy("router", old)

        def act(store: Artifacts = store) -> None:
            store.deploy("router", publish(store, NEW))

        crashed = run_until_crash(step, act)
        seen = state(root)
        assert seen in {(old, 1), (old, 2), (new, 2)}
        reached.add(seen)
        assert publish(store, NEW) == new
        store.deploy("router", new)
        assert state(root) == (new, 2)
        if not crashed:
            break
        crashes += 1
    assert crashes > 20
    assert reached == {(old, 1), (old, 2), (new, 2)}


def test_leftovers_of_a_crash_are_ignored_and_swept_when_old(tmp_path: Path) -> None:
    store = Artifacts(tmp_path)
    version = publish(store, OLD)
    folder = tmp_path / "router"
    leftover, young = folder / f"{module.LEFTOVER}1", folder / f"{module.LEFTOVER}2"
    leftover.mkdir()
    (leftover / "arrays.safetensors").write_bytes(b"half")
    young.write_bytes(b"{")
    os.utime(leftover, (0, 0))
    assert [manifest.version for manifest in store.versions("router")] == [version]
    publish(store, NEW)
    assert not leftover.exists()
    assert young.exists()
