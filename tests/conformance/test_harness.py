from __future__ import annotations

from pathlib import Path

import pytest
from lms_conformance.chunks import Chunk, key, same
from lms_conformance.damage import allocated_bytes, flip_stored, truncate_files
from lms_conformance.devices import DeviceHarness, NameHarness, harness_for
from lms_conformance.harness import FactoryHarness
from lms_conformance.recipes import load_harness
from lms_conformance.zoo.files import FileReference
from lms_conformance.zoo.harnesses import ReferenceHarness
from lms_conformance.zoo.memory import BareReference

from lms_tiers import LMSLocalBackend
from lms_tiers.errors import ConfigError, StorageUnavailableError


def test_a_name_is_opened_bare_and_a_device_through_the_factory(tmp_path: Path) -> None:
    assert isinstance(harness_for("cpu"), NameHarness)
    with harness_for("cpu").open(tmp_path, None) as backend:
        assert type(backend) is LMSLocalBackend
    device = harness_for("cpu?capacity={capacity}")
    assert type(device) is DeviceHarness
    assert device.takes_capacity
    with device.open(tmp_path, 1 << 20) as backend:
        assert backend.capabilities.evicts


def test_a_device_holds_what_its_tiers_hold_together_and_nothing_bounds_it_where_one_has_no_bound() -> None:
    assert harness_for("cpu?capacity={capacity} > lmdb:{tmp}/kv?capacity={capacity}").holds(1000) == 2000
    mixed = harness_for("cpu?capacity=64MiB > lmdb:{tmp}/kv?capacity={capacity}")
    assert (mixed.takes_capacity, mixed.holds(1000)) == (True, (64 << 20) + 1000)
    assert harness_for("cpu?capacity={capacity} > lm:{server}").holds(1000) == 2000
    assert not harness_for("cpu?capacity={capacity} > redis:{server}?prefix={tmp}/").takes_capacity


@pytest.mark.leaks_allowed
def test_a_server_is_started_for_a_place_and_again_at_reopening(tmp_path: Path) -> None:
    harness = harness_for("lm:{server}")
    assert harness.takes_capacity
    chunk = Chunk(3, 5000)
    with harness.open(tmp_path, 1 << 24) as first, harness.open(tmp_path, 1 << 24) as second:
        first.put(chunk.message(key("a")), chunk.data())
        assert same(second.get(key("a")), chunk)
    assert harness.corrupt(tmp_path, b"no such bytes are stored there")
    with harness.reopen(tmp_path, 1 << 24) as again:
        assert again.get(key("b")) is None
    harness.stop(tmp_path)
    assert "harness_for('lm:{server}')" in harness.source()


@pytest.mark.leaks_allowed
def test_a_server_whose_store_cannot_be_opened_is_not_there(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"in the way")
    with pytest.raises(StorageUnavailableError):
        harness_for("lm:{server}").open(blocked, 1 << 24)
    with pytest.raises(StorageUnavailableError, match="the server's store"):
        harness_for("cpu?capacity=1MiB > lm:{server}").open(blocked, 1 << 24)


@pytest.mark.parametrize("device", ["lmdb:/data/kv?capacity=1GiB", "cpu?capacity=1MiB > lmdb:./kv", "lmdb:~/kv"])
def test_a_device_with_a_real_path_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=r"\{tmp\}"):
        harness_for(device)


def test_a_factory_gets_as_much_as_it_takes(tmp_path: Path) -> None:
    seen: list[tuple[object, ...]] = []

    def nothing() -> BareReference:
        seen.append(())
        return BareReference()

    def place(path: str) -> BareReference:
        seen.append((path,))
        return BareReference()

    def both(path: str, capacity: int | None) -> BareReference:
        seen.append((path, capacity))
        return BareReference()

    for factory in (nothing, place, both):
        FactoryHarness(factory).open(tmp_path, 7)
    assert seen == [(), (str(tmp_path),), (str(tmp_path), 7)]
    assert [FactoryHarness(f).takes_capacity for f in (nothing, place, both)] == [False, False, True]


def test_a_harness_travels_to_another_process_unless_it_is_a_closure(tmp_path: Path) -> None:
    recipe = FactoryHarness(FileReference).recipe()
    assert recipe is not None
    with load_harness(recipe).open(tmp_path, None) as backend:
        assert type(backend) is FileReference
    assert FactoryHarness(lambda: BareReference()).recipe() is None


def test_only_a_harness_with_raw_peek_has_one() -> None:
    assert ReferenceHarness("files").has_peek
    assert not FactoryHarness(BareReference).has_peek


def test_damage_hits_the_stored_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 40
    file = tmp_path / "chunks"
    file.write_bytes(b"head" + data)
    assert allocated_bytes(tmp_path) >= len(data)
    assert flip_stored(tmp_path, data)
    changed = file.read_bytes()
    assert changed[:4] == b"head"
    assert changed != b"head" + data
    assert truncate_files(tmp_path)
    assert file.stat().st_size < len(changed)
    assert not flip_stored(tmp_path / "none", data)
