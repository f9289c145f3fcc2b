"""The kit's properties of LMCache's L2 adapters: on the door, on the reference, on LMCache's own, and on broken ones."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any, Final

import pytest
from lms_conformance.adapters.broken import zoo
from lms_conformance.adapters.interface import interface
from lms_conformance.adapters.lmcache_l2.harness import L2Harness

from tests.doors.kit import catches, keeps
from tests.doors.lmcache import double

REAL: Final = importlib.util.find_spec("lmcache") is not None
if REAL:
    pytest.importorskip("lmcache.v1.distributed.l2_adapters.base")  # with the warnings that it gives
OURS: Final = "lms_tiers.doors.lmcache:L2Adapter"
LMDB: Final = {"device": "lmdb:{tmp}/kv?capacity=256MiB&codec=raw&sync=none"}
FAILING: Final = {
    "device": "store?breaker_threshold=1000&back_pressure=10ms > "
    "faulty:cpu?capacity=64MiB&nothing=0.15&wrong_length=0.15&lie=0.1&fail_after=0.2&seed=3"
}
#: What a store in memory has not: files to damage, a place to be opened again.
IN_MEMORY: Final = [f"DOR-L{n}" for n in (15, 16, 17, 19, 20)]
FS: Final = {"base_path": "{tmp}/kv"}

needs_lmcache = pytest.mark.skipif(not REAL, reason="LMCache is not installed: make doors")


class Doubled(L2Harness):
    """Made without LMCache's factory."""

    def made(self, options: dict[str, Any]) -> Any:
        if "lmcache" not in sys.modules:  # in the process that is killed
            double.install()
        return self.class_of()(options)


def harness(options: dict[str, Any], failing: dict[str, Any] | None = None) -> L2Harness:
    return (L2Harness if REAL else Doubled)(OURS, options, failing)


@pytest.mark.deep
def test_the_door_over_lmdb_keeps_every_property() -> None:
    keeps(harness(LMDB, FAILING))


@pytest.mark.deep
def test_the_door_over_memory_keeps_every_property_that_memory_can() -> None:
    keeps(harness({"device": "cpu?capacity=256MiB"}), [*IN_MEMORY, "DOR-L18"])


@pytest.mark.deep
@needs_lmcache
def test_the_reference_keeps_every_property() -> None:
    of = zoo("lmcache-l2")
    keeps(interface("lmcache-l2").harness(of.reference, of.options), ["DOR-L18"])


@needs_lmcache
def test_every_property_has_a_broken_adapter() -> None:
    assert zoo("lmcache-l2").unbroken() == set()


@pytest.mark.deep
@needs_lmcache
@pytest.mark.parametrize("one", zoo("lmcache-l2").broken if REAL else [], ids=lambda one: one.subject.partition(":")[2])
def test_a_broken_adapter_is_caught_by_name(one: Any) -> None:
    catches("lmcache-l2", one)
