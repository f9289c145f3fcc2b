"""A server says what does not fit its machine, and does not start on it where it is strict."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lms_tiers.errors import ConfigError
from lms_tiers.place.machine import Machine
from lms_tiers.server.fit import check_fit
from lms_tiers.server.settings import ServerSettings

GIB = 2**30


def small() -> Machine:
    return Machine(Path("/nowhere"), ram=lambda: 23 * GIB, free=lambda path: 63 * GIB)


def test_capacities_and_the_receive_budget_are_compared_with_the_machine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device = f"cpu?capacity=900GiB > lmdb:{tmp_path}/kv?capacity=10TiB"
    with caplog.at_level(logging.WARNING):
        check_fit(ServerSettings(device=device), small())
    memory, disk = (record.getMessage() for record in caplog.records)
    assert "901 GiB" in memory
    assert "23 GiB" in memory
    assert "10 TiB" in disk
    assert "63 GiB" in disk
    with pytest.raises(ConfigError, match=r"901 GiB.*10 TiB"):
        check_fit(ServerSettings(device=device, strict=True), small())


def test_what_fits_is_not_spoken_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_fit(
            ServerSettings(device=f"pinned?capacity=22GiB > lmdb:{tmp_path}?capacity=63GiB", strict=True), small()
        )
    assert not caplog.records
