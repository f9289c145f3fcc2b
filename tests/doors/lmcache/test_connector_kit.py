"""The kit's properties of LMCache's connectors: on the door's, on the reference, on LMCache's own, and on broken ones.

LMCache only: `make doors` makes the environment; without LMCache these are skipped.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Final

import pytest
from lms_conformance.adapters.broken import zoo
from lms_conformance.adapters.interface import interface
from lms_conformance.adapters.run import run_adapter

from tests.doors.kit import catches, keeps

REAL: Final = importlib.util.find_spec("lmcache") is not None
if REAL:
    pytest.importorskip("lmcache.v1.storage_backend.connector")  # with the warnings that it gives
NAME: Final = "lmcache-connector"
OURS: Final = "lms_tiers.doors.lmcache:ConnectorAdapter"
#: One connector at a time opens a place here, so that the place may be a directory; workers go over `lm:`.
LMDB: Final = {"device": "lmdb:{tmp}/kv?capacity=256MiB&codec=raw&sync=none"}
FAILING: Final = {
    "device": "store?breaker_threshold=1000&back_pressure=10ms > "
    "faulty:cpu?capacity=64MiB&nothing=0.15&wrong_length=0.15&lie=0.1&fail_after=0.2&seed=3"
}
STALLING: Final = {"device": "store?breaker_threshold=1000 > faulty:cpu?capacity=64MiB&slow=1&slow_seconds=1"}

pytestmark = [
    pytest.mark.skipif(not REAL, reason="LMCache is not installed: make doors"),
    pytest.mark.leaks_allowed,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def harness(options: dict[str, Any]) -> Any:
    return interface(NAME).harness(OURS, options, FAILING, STALLING)


def test_every_property_has_a_broken_connector() -> None:
    assert zoo(NAME).unbroken() == set()


@pytest.mark.deep
def test_the_door_over_lmdb_keeps_every_property() -> None:
    keeps(harness(LMDB))


@pytest.mark.deep
def test_the_door_over_memory_keeps_every_property_that_memory_can() -> None:
    keeps(harness({"device": "cpu?capacity=256MiB"}), [f"DOR-C{n}" for n in (16, 17, 18, 20, 21)])


@pytest.mark.deep
def test_the_reference_keeps_every_property() -> None:
    of = zoo(NAME)
    keeps(interface(NAME).harness(of.reference, of.options, {**of.options, "fail": 0.3}, of.stalling))


@pytest.mark.deep
def test_lmcaches_own_file_connector_fails_what_the_findings_say() -> None:
    report = run_adapter(interface(NAME).harness("fs", {"base_path": "{tmp}/kv"}), profile="quick")
    assert sorted(result.id for result in report.failures()) == [f"DOR-C{n}" for n in ("06", "12", "17", "22")]


@pytest.mark.deep
@pytest.mark.parametrize("one", zoo(NAME).broken if REAL else [], ids=lambda one: one.subject.partition(":")[2])
def test_a_broken_connector_is_caught_by_name(one: Any) -> None:
    catches(NAME, one)
