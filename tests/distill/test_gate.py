"""A learned gate must earn its use: it does where documents differ, and does not where they do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offline.distill.gate import Gate, Said, even, fit, learn


def world(documents: int, matters: bool, seed: int = 0) -> tuple[np.ndarray, Said]:
    """Two sources; the first feature says which of them knows the document, or says nothing."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(documents, 3))
    first = features[:, 0] > 0 if matters else rng.random(documents) > 0.5
    owner = np.repeat(np.arange(documents), 8)
    good, bad = rng.uniform(0.5, 0.9, len(owner)), rng.uniform(0.05, 0.3, len(owner))
    gold = np.where(first[owner][:, None], np.stack([good, bad], 1), np.stack([bad, good], 1))
    return features, Said.of(np.log(gold), np.ones_like(gold, dtype=np.bool_), owner, documents)


def test_it_is_used_where_documents_tell_who_knows_them() -> None:
    features, said = world(150, matters=True)
    made = learn(features, even(150, 2), said)
    assert made.used
    assert made.gain[1] > 0
    weights = made.gate(features, even(150, 2))
    clear = np.abs(features[:, 0]) > 0.5
    assert ((weights[:, 0] > 0.5) == (features[:, 0] > 0))[clear].mean() > 0.95
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)


def test_it_is_not_used_where_they_do_not() -> None:
    used = [learn(*_of(world(90, matters=False, seed=seed))).used for seed in range(10)]
    assert sum(used) <= 1


def _of(made: tuple[np.ndarray, Said]) -> tuple[np.ndarray, np.ndarray, Said]:
    features, said = made
    return features, even(len(features), 2), said


def test_the_gradient_is_that_of_the_loss() -> None:
    features, said = world(40, matters=True)
    small = fit(features, even(40, 2), said, penalty=1e3)
    np.testing.assert_allclose(small(features, even(40, 2)), 0.5, atol=0.2)
    free = fit(features, even(40, 2), said, penalty=1e-4)
    assert free.weights[0, 0] > 0.3
    assert free.weights[0, 1] < -0.3


def test_a_source_that_is_missing_for_some_documents_is_not_punished() -> None:
    owner = np.repeat(np.arange(60), 4)
    gold = np.log(np.full((240, 2), 0.5))
    valid = np.ones_like(gold, dtype=np.bool_)
    valid[::2, 1] = False
    said = Said.of(gold, valid, owner, 60)
    features = np.random.default_rng(0).normal(size=(60, 2))
    np.testing.assert_allclose(fit(features, even(60, 2), said, 1e-3)(features, even(60, 2)), 0.5, atol=1e-6)


def test_it_is_saved_and_read(tmp_path: Path) -> None:
    features, said = world(60, matters=True)
    gate = fit(features, even(60, 2), said, 1e-3)
    gate.save(tmp_path / "gate.safetensors")
    again = Gate.read(tmp_path / "gate.safetensors")
    np.testing.assert_array_equal(again(features, even(60, 2)), gate(features, even(60, 2)))


def test_too_few_documents_are_told() -> None:
    features, said = world(10, matters=True)
    with pytest.raises(ValueError, match="at least 30 documents"):
        learn(features, even(10, 2), said)
