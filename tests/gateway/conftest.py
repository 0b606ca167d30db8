"""The shared fleet: three models of rising quality and price, one gateway for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway.live import Fleet, fleet


@pytest.fixture(scope="module")
def _live_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("gateway")) as live:
        yield live


@pytest.fixture
def abc(_live_fleet: Fleet) -> Fleet:
    """The fleet of alpha, beta and gamma, with nothing scripted and nothing received yet."""
    _live_fleet.forget()
    return _live_fleet
