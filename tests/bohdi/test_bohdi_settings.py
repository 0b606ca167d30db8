"""The settings file: what it says is taken, and what it cannot say is refused with the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline.bohdi.settings import SettingsError, read_settings

GOOD = "target: small\nsources: [large, larger]\nlevels: 2\ntemperatures: {large: 0.15}\nmax_usd_per_round: 1.5\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "bohdi.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    settings = read_settings(written(tmp_path, GOOD))
    assert (settings.target, settings.sources, settings.levels) == ("small", ("large", "larger"), 2)
    assert (settings.rule, settings.drift, settings.window) == ("ours", "two_sample", 30)
    assert settings.temperatures == {"large": 0.15}


@pytest.mark.parametrize(
    ("drift", "discount", "carry"),
    [("two_sample", 0.97, 0.5), ("discounted", 0.97, 1.0), ("published", 1.0, 1.0), ("none", 1.0, 1.0)],
)
def test_the_drift_rule_decides_what_is_forgotten(tmp_path: Path, drift: str, discount: float, carry: float) -> None:
    rules = read_settings(written(tmp_path, GOOD + f"drift: {drift}\nwindow: 20\ncarry: 0.5\n")).fold_rules()
    assert (rules.window, rules.discount, rules.carry) == (20, discount, carry)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "colour: red\n", r"bohdi\.yaml:.*unknown field `colour`"),
        (GOOD + "kappa: -1\n", r"bohdi\.yaml:6: .*>= 0.*kappa"),
        (GOOD + "rule: best\n", r"bohdi\.yaml:6: .*'best'"),
        ("sources: [large]\n", "missing required field `target`"),
        ("target: large\nsources: [large]\n", "cannot be its own teacher"),
        ("target: small\nsources: [large, large]\n", "names a model twice"),
        ("target: [\n", r"bohdi\.yaml:2: not valid YAML"),
        ("", "Expected `object`"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        read_settings(written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read the settings .*none\.yaml"):
        read_settings(tmp_path / "none.yaml")
