"""How much memory and disk this machine, or the control group around this process, lets a store have.

Figures only: what wants them is compared in fit.py. Every source can be replaced, for tests and for other systems.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from lms_tiers.place.mounts import mount_of, mounts

_DISK_BLOCK: Final = 512  # the unit of st_blocks
#: Files with a limit in a control group's directory, by the kind of its mount; a text that is no number is no limit.
_LIMITS: Final = {"cgroup2": ("memory.max", "memory.high"), "cgroup": ("memory.limit_in_bytes",)}
_IN_MEMORY: Final = ("tmpfs", "ramfs")


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """The most memory this process can have, in bytes, and what sets it: ``RAM`` or a control group's file."""

    nbytes: int
    source: str


@dataclass(frozen=True, slots=True)
class Disk:
    """Where a disk tier lies.

    Attributes
    ----------
    where : Path
        The location, or the nearest directory above it that is there.
    device : int
        The file system's number: two locations of one number share its room.
    free, held : int
        Bytes that this user can still write, and physical bytes of the files under the location itself.
    in_memory : bool
        Whether the file system lies in memory.
    """

    where: Path
    device: int
    free: int
    held: int
    in_memory: bool


def _free(path: Path) -> int:
    return shutil.disk_usage(path).free


def _installed() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine.

    Attributes
    ----------
    root : Path
        Where ``proc`` and ``sys`` lie.
    free : callable
        Free bytes of the file system of a path.
    ram : callable
        Bytes of RAM where ``proc`` does not tell; None where nothing does.
    """

    root: Path = Path("/")
    free: Callable[[Path], int] = _free
    ram: Callable[[], int | None] = _installed

    def memory(self) -> MemoryLimit | None:
        """The smallest of RAM and the limits of all control groups around this process; None where none is known."""
        installed = self._installed()
        found = [] if installed is None else [MemoryLimit(installed, "RAM")]
        return min([*found, *self._groups()], key=lambda limit: limit.nbytes, default=None)

    def disk(self, location: Path) -> Disk | None:
        """The disk of a location, which need not be there yet; None where its file system cannot be asked."""
        location = Path(os.path.realpath(location))
        where = next((path for path in (location, *location.parents) if path.exists()), None)
        if where is None:
            return None
        try:
            mount = mount_of(where, self.root)
            return Disk(
                where, where.stat().st_dev, self.free(where), disk_bytes(location),
                mount is not None and mount.kind in _IN_MEMORY,
            )  # fmt: skip
        except OSError:
            return None

    def _installed(self) -> int | None:
        for line in _lines(self.root / "proc/meminfo"):
            name, _, value = line.partition(":")
            if name == "MemTotal" and value.split()[1:] == ["kB"]:
                return int(value.split()[0]) * 1024
        return self.ram()

    def _groups(self) -> Iterator[MemoryLimit]:
        for line in _lines(self.root / "proc/self/cgroup"):
            _, _, rest = line.partition(":")
            controllers, _, group = rest.partition(":")
            if controllers and "memory" not in controllers.split(","):
                continue
            kind = "cgroup" if controllers else "cgroup2"
            for mount in mounts(self.root):
                if mount.kind == kind and (kind == "cgroup2" or "memory" in mount.options):
                    yield from self._up(mount.path, _below(group, mount.root), _LIMITS[kind])

    def _up(self, mounted: str, group: PurePosixPath, names: tuple[str, ...]) -> Iterator[MemoryLimit]:
        """Limits from a group up to the top of its mount: each bounds all below it."""
        top = self.root / mounted.lstrip("/")
        for part in (group, *group.parents):
            for name in names:
                file = top / part / name
                text = "".join(_lines(file)).strip()
                if text.isdecimal():
                    yield MemoryLimit(int(text), str(file))


def _below(group: str, root: str) -> PurePosixPath:
    """A group's path in a mount of the tree's part from `root` on; its top for a group that is not in that part."""
    try:
        path = PurePosixPath(group).relative_to(root)
    except ValueError:
        return PurePosixPath()
    return PurePosixPath() if ".." in path.parts else path


def _lines(path: Path) -> list[str]:
    try:
        return os.fsdecode(path.read_bytes()).splitlines()
    except OSError:
        return []


def disk_bytes(location: Path) -> int:
    """Bytes that a file, or all files under a directory, take on disk; a file's holes take none."""
    return sum(_DISK_BLOCK * found.st_blocks for found in _files(location))


def _files(location: Path) -> Iterator[os.stat_result]:
    try:
        found = os.stat(location)
        if stat.S_ISREG(found.st_mode):
            yield found
        elif stat.S_ISDIR(found.st_mode):
            for entry in os.scandir(location):
                yield from _files(Path(entry.path))
    except FileNotFoundError:  # a backend removes files while they are counted
        return
