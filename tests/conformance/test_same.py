"""One history over many devices: ours answer alike, and one that does not is found, with the smallest history."""

from __future__ import annotations

from pathlib import Path

import pytest
from lms_conformance.devices import harness_for
from lms_conformance.harness import FactoryHarness
from lms_conformance.same import compare
from lms_conformance.zoo.files import FileReference
from lms_conformance.zoo.harnesses import MutantHarness, ReferenceHarness
from lms_conformance.zoo.memory import EvictingReference, MemoryReference
from typer.testing import CliRunner

from lms_tiers.cli import app
from tests.depth import some

pytestmark = pytest.mark.leaks_allowed

#: Codec, policy, capacity, order and number of tiers, sharing: none of them shows in an answer.
OURS = [
    "cpu",
    "cpu?capacity=64KiB&policy=fifo",
    "lmdb:{tmp}/kv?capacity=64MiB&codec=raw",
    "cpu?capacity=64KiB > lmdb:{tmp}/kv?capacity=64MiB&codec=zstd",
    "cpu?capacity=48KiB&policy=s3fifo > lmdb:{tmp}/kv?capacity=64MiB&codec=planes&sync=none",
    "lmdb:{tmp}/one?capacity=16MiB > lmdb:{tmp}/two?capacity=64MiB",
    "cpu?capacity=64KiB > lm:{server}?timeout=60&deadline=60s",
]
SETS = {"memory": OURS[:2], "every": OURS}


@pytest.mark.parametrize("devices", some(SETS, lambda name: name == "memory"))
def test_our_devices_answer_alike(devices: str) -> None:
    found = compare([harness_for(device) for device in SETS[devices]])
    assert found.difference is None, str(found.difference)
    assert found.histories >= 20
    assert found.operations > 10 * len(found.devices)


@pytest.mark.parametrize(
    "mutant", some(["keeps-what-has-the-same-length", "folds-case", "leaves-the-old-tail"], "folds-case".__eq__)
)
def test_a_device_that_answers_otherwise_is_found_with_a_small_history(mutant: str) -> None:
    found = compare([ReferenceHarness("memory"), ReferenceHarness("files"), MutantHarness(mutant)])
    assert found.difference is not None
    assert len(found.difference.history) <= 6
    assert f"3. mutant {mutant}" in found.difference.answers
    assert f"{found.difference.at:>3} ->" in str(found.difference)


@pytest.mark.deep
def test_what_may_be_gone_is_not_what_may_be_wrong() -> None:
    class Forgets(EvictingReference):
        """Evicts at every put."""

        def put(self, client_meta: object, kv_chunk_bytes: object) -> None:
            self._chunks.clear()
            self._used = 0
            super().put(client_meta, kv_chunk_bytes)  # type: ignore[arg-type]

    kept, forgets = FactoryHarness(MemoryReference), FactoryHarness(Forgets)
    assert compare([kept, FactoryHarness(FileReference), forgets]).difference is None
    Forgets.capabilities = MemoryReference.capabilities
    assert compare([kept, FactoryHarness(FileReference), forgets]).difference is not None


@pytest.mark.deep
def test_the_command_line_compares_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(
        app,
        [
            "conform",
            "cpu",
            "--profile",
            "quick",
            "--same",
            "cpu?capacity=1MiB",
            "--same",
            "lmdb:{tmp}/kv?capacity=64MiB",
        ],
    )
    assert done.exit_code == 0, done.output
    assert "answer alike" in done.output
