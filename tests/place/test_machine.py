"""The memory and disk a machine offers: RAM, the smallest limit up the path of control groups, free and held bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lms_tiers.place.machine import Machine

GIB = 2**30
V2 = "30 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = "31 22 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def machine(tmp_path: Path, groups: str, table: str, limits: dict[str, str], ram_kib: int = 24 * 2**20) -> Machine:
    (tmp_path / "proc/self").mkdir(parents=True, exist_ok=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal:       {ram_kib} kB\nMemFree:        1 kB\n")
    (tmp_path / "proc/self/cgroup").write_text(groups)
    (tmp_path / "proc/self/mountinfo").write_text(table)
    for name, value in limits.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(value + "\n")
    return Machine(tmp_path)


def test_without_a_limit_memory_is_ram(tmp_path: Path) -> None:
    limit = machine(tmp_path, "0::/a\n", V2, {"a/memory.max": "max", "a/memory.high": "max"}).memory()
    assert limit is not None
    assert (limit.nbytes, limit.source) == (24 * GIB, "RAM")


@pytest.mark.parametrize("tight", ["memory.max", "a/memory.max", "a/b/memory.max", "a/b/memory.high"])
def test_the_smallest_limit_up_the_path_counts_in_version_2(tmp_path: Path, tight: str) -> None:
    limits = {"a/memory.max": str(9 * GIB), "a/b/memory.max": str(8 * GIB), "a/b/memory.high": "max"}
    limit = machine(tmp_path, "0::/a/b\n", V2, {**limits, tight: str(3 * GIB)}).memory()
    assert limit is not None
    assert limit.nbytes == 3 * GIB
    assert tight in limit.source


@pytest.mark.parametrize("tight", ["memory", "memory/a", "memory/a/b"])
def test_the_smallest_limit_up_the_path_counts_in_version_1(tmp_path: Path, tight: str) -> None:
    name = "memory.limit_in_bytes"
    limits = {f"memory/a/{name}": "9223372036854771712", f"memory/a/b/{name}": "9223372036854771712"}
    groups = "5:cpu,cpuacct:/x\n4:memory:/a/b\n0::/elsewhere\n"
    limit = machine(tmp_path, groups, V1, {**limits, f"{tight}/{name}": str(2 * GIB)}).memory()
    assert limit is not None
    assert limit.nbytes == 2 * GIB


def test_in_a_container_the_mounted_part_of_the_tree_is_looked_at(tmp_path: Path) -> None:
    table = V1.replace("0:27 / ", "0:27 /docker/1f ")
    limits = {"memory/memory.limit_in_bytes": str(2 * GIB), "memory/sub/memory.limit_in_bytes": str(GIB)}
    assert machine(tmp_path, "4:memory:/docker/1f\n", table, limits).memory().nbytes == 2 * GIB  # type: ignore[union-attr]
    assert machine(tmp_path, "4:memory:/docker/1f/sub\n", table, limits).memory().nbytes == GIB  # type: ignore[union-attr]
    # A group outside this process's view is told with dots, or as another path: the mount itself is what is left.
    outside = machine(tmp_path, "4:memory:/../other\n", table, limits).memory()
    assert outside is not None
    assert outside.nbytes == 2 * GIB


def test_a_machine_that_tells_nothing_has_no_limit_that_is_known(tmp_path: Path) -> None:
    assert Machine(tmp_path, ram=lambda: None).memory() is None
    told = Machine(tmp_path, ram=lambda: 5 * GIB).memory()
    assert told is not None
    assert told.nbytes == 5 * GIB


def test_this_machine_has_memory() -> None:
    limit = Machine().memory()
    assert limit is not None
    assert limit.nbytes > 2**26


def test_a_disk_is_that_of_the_nearest_directory_and_counts_what_the_store_holds(tmp_path: Path) -> None:
    store = tmp_path / "kv"
    store.mkdir()
    (store / "data").write_bytes(bytes(8192))
    os.sync()
    here = Machine(free=lambda path: 100).disk(store)
    assert here is not None
    assert (here.where, here.free) == (store, 100)
    assert here.held >= 8192
    absent = Machine(free=lambda path: 100).disk(tmp_path / "not/yet")
    assert absent is not None
    assert (absent.where, absent.held, absent.device) == (tmp_path, 0, here.device)
