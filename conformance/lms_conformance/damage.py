"""Damage to files, from outside: flip bytes of a stored chunk, cut files short, measure what they take."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path


def files_below(path: Path) -> Iterator[Path]:
    """Regular files that hold anything, in a stable order."""
    for file in sorted(path.rglob("*")):
        if file.is_file() and not file.is_symlink() and file.stat().st_size:
            yield file


def allocated_bytes(path: Path) -> int:
    """Bytes on the medium that the files below `path` take (holes take none)."""
    return sum(file.stat().st_blocks * 512 for file in files_below(path))


def flip_stored(path: Path, data: bytes) -> bool:
    """Flip bits wherever a slice from the middle of `data` is stored verbatim.

    Incompressible data is stored verbatim, perhaps in parts, by any medium that does not encrypt; where no slice of
    it is found, every file's middle is flipped instead.
    """
    flipped = False
    for at in (len(data) // 2, len(data) // 3, 2 * len(data) // 3):
        needle = data[at : at + 24]
        for file in files_below(path):
            flipped |= _flip_all(file, needle)
        if flipped:
            return True
    for file in files_below(path):
        size = file.stat().st_size
        with file.open("r+b") as f:
            f.seek(size // 2)
            byte = f.read(1)
            f.seek(size // 2)
            f.write(bytes([byte[0] ^ 0x5A]))
        flipped = True
    return flipped


def _flip_all(file: Path, needle: bytes) -> bool:
    found = False
    with file.open("r+b") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as view:
        at = view.find(needle)
        while needle and at >= 0:
            # Written past the mapping that is searched: a sparse file must not grow by being looked at.
            os.pwrite(f.fileno(), bytes([view[at + 7] ^ 0x5A]), at + 7)
            found = True
            at = view.find(needle, at + len(needle))
    return found


def truncate_files(path: Path) -> bool:
    """Cut a third off every file that is larger than a page."""
    cut = False
    for file in files_below(path):
        # Sparse files end in a hole that holds nothing: cut into what is allocated.
        size = min(file.stat().st_size, file.stat().st_blocks * 512)
        if size > 4096:
            os.truncate(file, size * 2 // 3)
            cut = True
    return cut
