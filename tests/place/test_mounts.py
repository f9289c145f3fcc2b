"""Mount tables are read whatever their paths are called."""

from __future__ import annotations

import os
from pathlib import Path

from lms_tiers.place.mounts import Mount, mount_of, mounts


def machine(tmp_path: Path, table: bytes) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_bytes(table)
    return tmp_path


def test_escapes_and_bytes_that_are_no_text_are_read(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        b"22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        b"23 22 0:5 /sub /mnt/a\\040b\\011c\\134d\\012e rw - xfs /dev/sdb rw,quota\n"
        b"24 22 0:6 / /mnt/\xff\xc3\xa9 rw,relatime master:2 propagate_from:3 - nfs4 host:/x rw\n"
        b"\n25 22 short\n",
    )
    assert mounts(root) == [
        Mount("/", "/", "ext4", ("rw",)),
        Mount("/sub", "/mnt/a b\tc\\d\ne", "xfs", ("rw", "quota")),
        Mount("/", os.fsdecode(b"/mnt/\xff\xc3\xa9"), "nfs4", ("rw",)),
    ]


def test_a_path_lies_on_the_longest_mount_and_of_two_on_the_later(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        b"1 0 8:1 / / rw - ext4 a rw\n2 1 0:5 / /mn rw - xfs b rw\n3 1 0:6 / /mnt rw - nfs4 c rw\n"
        b"4 3 0:7 / /mnt rw - tmpfs d rw\n5 1 0:8 / /m\xff rw - zfs d rw\n",
    )
    kinds = {
        path: found.kind for path in ("/mnt/x", "/mntx", "/mn", "/m\udcff/x") if (found := mount_of(Path(path), root))
    }
    assert kinds == {"/mnt/x": "tmpfs", "/mntx": "ext4", "/mn": "xfs", "/m\udcff/x": "zfs"}


def test_a_machine_without_a_table_tells_none(tmp_path: Path) -> None:
    assert mounts(tmp_path) == []
    assert mount_of(tmp_path, tmp_path) is None


def test_this_machines_own_table_is_read(tmp_path: Path) -> None:
    assert mount_of(tmp_path) in mounts()
