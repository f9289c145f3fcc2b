"""The mount table of this process, in bytes: paths in it are of any encoding, and escaped.

Which file systems suit a tier is no matter of this module.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")
_ROOT: Final = Path("/")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount.

    Attributes
    ----------
    root : str
        The directory of the file system that is mounted, ``/`` where it is the whole.
    path : str
        Where.
    kind : str
        The file system, such as ``ext4``.
    options : tuple of str
        Those of the file system, such as the controllers of a cgroup.
    """

    root: str
    path: str
    kind: str
    options: tuple[str, ...]


def mounts(root: Path = _ROOT) -> list[Mount]:
    """All mounts of this process, in order; empty where the machine tells none.

    Parameters
    ----------
    root : Path
        Where ``proc`` lies.
    """
    try:
        table = (root / "proc/self/mountinfo").read_bytes()
    except OSError:
        return []
    return list(_parse(table))


def mount_of(path: Path, root: Path = _ROOT) -> Mount | None:
    """The mount that `path` lies on; None where the machine does not tell."""
    real = os.path.realpath(path)
    found: Mount | None = None
    for mount in mounts(root):
        inside = real == mount.path or real.startswith(mount.path.rstrip("/") + "/")
        if inside and (found is None or len(mount.path) >= len(found.path)):  # the later one covers the earlier
            found = mount
    return found


def _parse(table: bytes) -> Iterator[Mount]:
    # 36 35 98:0 /root /mount rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    for line in table.split(b"\n"):
        before, separator, after = line.partition(b" - ")
        fields, kinds = before.split(b" "), after.split(b" ")
        if separator and len(fields) >= 5:
            options = kinds[2].split(b",") if len(kinds) > 2 else []
            yield Mount(_text(fields[3]), _text(fields[4]), _text(kinds[0]), tuple(map(_text, options)))


def _text(field: bytes) -> str:
    """A field as Python's file functions take it."""
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field))
