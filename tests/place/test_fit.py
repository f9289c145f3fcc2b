"""A device that a machine cannot hold is said to be one, with both figures."""

from __future__ import annotations

from pathlib import Path

from lms_tiers.device import parse_device
from lms_tiers.place.fit import misfits
from lms_tiers.place.machine import Machine

GIB = 2**30
MEDIA = {"cpu": "memory", "pinned": "memory", "lmdb": "disk", "lm": ""}


def small(free: int = 63 * GIB) -> Machine:
    """23 GiB of RAM, 63 GiB of free disk."""
    return Machine(Path("/nowhere"), ram=lambda: 23 * GIB, free=lambda path: free)


def test_a_device_larger_than_the_machine_names_both_figures(tmp_path: Path) -> None:
    memory, disk = misfits(parse_device(f"cpu?capacity=900GiB > lmdb:{tmp_path}/kv?capacity=10TiB"), MEDIA, small())
    assert "900 GiB" in memory
    assert "23 GiB" in memory
    assert "10 TiB" in disk
    assert "63 GiB" in disk
    assert str(tmp_path) in disk


def test_tiers_in_memory_add_up_with_what_the_process_needs_besides() -> None:
    device = parse_device("pinned?capacity=12GiB > cpu?capacity=11GiB > lm:host:1?capacity=9TiB")
    assert misfits(device, MEDIA, small()) == []
    (doubt,) = misfits(device, MEDIA, small(), reserve=GIB)
    assert "pinned 12 GiB, cpu 11 GiB" in doubt
    assert "24 GiB" in doubt


def test_tiers_on_one_disk_add_up_and_what_they_hold_is_theirs(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/data").write_bytes(bytes(2**20))
    device = parse_device(f"lmdb:{tmp_path}/a?capacity=5MiB > lmdb:{tmp_path}/b?capacity=5MiB")
    assert misfits(device, MEDIA, small(free=9 * 2**20 + 2**16)) == []
    (doubt,) = misfits(device, MEDIA, small(free=8 * 2**20))
    assert "10 MiB" in doubt
    assert "holds" in doubt


def test_tiers_without_a_capacity_or_a_known_medium_are_not_judged(tmp_path: Path) -> None:
    assert misfits(parse_device(f"lmdb:{tmp_path}"), MEDIA, small(free=0)) == []
    assert misfits(parse_device("other?capacity=10TiB > cpu"), MEDIA, small()) == []
    assert misfits(parse_device("cpu?capacity=10TiB"), MEDIA, Machine(Path("/nowhere"), ram=lambda: None)) == []


def test_a_disk_in_memory_takes_memory(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text("1 0 0:1 / / rw - tmpfs shm rw\n")
    machine = Machine(tmp_path, ram=lambda: 4 * GIB, free=lambda path: 8 * GIB)
    device = parse_device(f"cpu?capacity=2GiB > lmdb:{tmp_path}/kv?capacity=3GiB")
    (doubt,) = misfits(device, MEDIA, machine)
    assert "cpu 2 GiB, lmdb 3 GiB" in doubt
