"""The kit's properties of HiCache's backends: on the door, on the reference, on SGLang's own, and on broken ones."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from lms_conformance.adapters.broken import zoo
from lms_conformance.adapters.hicache.harness import HiCacheHarness
from lms_conformance.adapters.interface import interface, rules
from lms_conformance.adapters.run import run_adapter
from typer.testing import CliRunner

from lms_tiers.cli import app
from tests.doors.kit import catches, keeps
from tests.doors.sglang import double
from tests.doors.sglang.conftest import REAL

OURS: Final = "lms_tiers.doors.sglang:HiCache"
LMDB: Final = {"device": "lmdb:{tmp}/kv-{rank}?capacity=256MiB&codec=raw&sync=none"}
FAILING: Final = {
    "device": "store?breaker_threshold=1000&back_pressure=10ms > "
    "faulty:cpu?capacity=64MiB&nothing=0.15&wrong_length=0.15&lie=0.1&fail_after=0.2&seed=3"
}
#: What a store in memory has not: files to damage, a place to be opened again.
IN_MEMORY: Final = [f"DOR-H{n:02}" for n in (9, 10, 11, 13, 14, 19, 20, 21, 22, 23)]
#: What needs SGLang itself: its file backend to compare with.
WITHOUT_SGLANG: Final = [] if REAL else ["DOR-H06"]

needs_sglang = pytest.mark.skipif(not REAL, reason="SGLang is not installed: make doors")


#: What the double put in place stays while this is there.
IN_THE_PROCESS: Final = contextlib.ExitStack()


class Doubled(HiCacheHarness):
    """Pools of the double."""

    def pool(self, layout: str, dtype: Any, layers: int, page_size: int, pages: int, width: int, latent: bool) -> Any:
        return (double.mla if latent else double.mha)(layout, dtype, layers, page_size, pages, width)

    def drive(self, path: Path, *given: Any, **how: Any) -> Any:
        if "sglang" not in sys.modules:  # in the process that is killed
            IN_THE_PROCESS.enter_context(double.installed())
        return super().drive(path, *given, **how)


def harness(options: dict[str, Any], failing: dict[str, Any] | None = None) -> HiCacheHarness:
    return (HiCacheHarness if REAL else Doubled)(OURS, options, failing)


@pytest.mark.deep
def test_the_door_over_lmdb_keeps_every_property() -> None:
    keeps(harness(LMDB, FAILING), WITHOUT_SGLANG)


@pytest.mark.deep
def test_the_door_over_memory_keeps_every_property_that_memory_can() -> None:
    keeps(harness({"device": "cpu?capacity=256MiB"}), [*WITHOUT_SGLANG, *IN_MEMORY, "DOR-H12"])


@pytest.mark.deep
def test_the_door_over_two_tiers_keeps_every_property() -> None:
    device = {"device": "cpu?capacity=1MiB > lmdb:{tmp}/kv-{rank}?capacity=256MiB&promote=never"}
    written_later = "DOR-H14"  # what the tier below has not got yet dies with the process
    asked = [p.id for p in rules("hicache") if p.id != written_later]
    keeps(harness(device), [*WITHOUT_SGLANG, "DOR-H09", "DOR-H12"], asked)  # RAM takes what no file can


@pytest.mark.deep
@needs_sglang
def test_the_reference_keeps_every_property() -> None:
    of = zoo("hicache")
    keeps(interface("hicache").harness(of.reference, of.options), ["DOR-H12"])


@needs_sglang
def test_every_property_has_a_broken_backend() -> None:
    assert zoo("hicache").unbroken() == set()


@pytest.mark.deep
@needs_sglang
@pytest.mark.parametrize("one", zoo("hicache").broken if REAL else [], ids=lambda one: one.subject.partition(":")[2])
def test_a_broken_backend_is_caught_by_name(one: Any) -> None:
    catches("hicache", one)


@pytest.mark.deep
@needs_sglang
def test_sglangs_own_file_backend_fails_what_the_findings_say() -> None:
    report = run_adapter(HiCacheHarness("file", {"file_storage_path": "{tmp}/kv"}), profile="quick")
    failed = [result.id for result in report.failures()]
    assert failed == ["DOR-H10", "DOR-H11", "DOR-H19", "DOR-H20", "DOR-H21"]


@needs_sglang
def test_the_command_tries_an_adapter_and_writes_the_kits_reports(tmp_path: Path) -> None:
    arguments = ["conform", "--as", "hicache", "--profile", "quick", "--only", "DOR-H01,DOR-H12", OURS]
    done = CliRunner().invoke(app, [*arguments, "--options", json.dumps(LMDB), "--json", str(tmp_path / "report")])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "report").read_text())
    assert [(r["id"], r["status"]) for r in report["results"]] == [("DOR-H01", "passed"), ("DOR-H12", "not applicable")]
    file = [*arguments[:-1], "file", "--options", json.dumps({"file_storage_path": "{tmp}/kv"})]
    done = CliRunner().invoke(app, [*file, "--only", "DOR-H10"])
    assert done.exit_code == 1
    assert "DOR-H10: A byte that was flipped" in done.output
