"""Checksums of chunks as they came or were last read, so that a chunk need not be read once more for each answer."""

from __future__ import annotations

from typing import Final

#: Chunks that are remembered at least; twice as many at most, with some 250 bytes each.
_MOST: Final = 32768
#: A smaller chunk is read in no time.
_WORTH: Final = 16 * 1024
#: Longer keys are not remembered: peers choose them.
_LONGEST_KEY: Final = 256


class Checksums:
    """What a checksum probably is: the storage may hold another chunk of that name by now.

    For clients that compare, and ask once more where it is wrong; the second answer is computed, and remembered.
    """

    def __init__(self) -> None:
        # Two halves: when the newer one is full, the older one is forgotten. Each step is one of a dictionary's own.
        self._newer: dict[str, int] = {}
        self._older: dict[str, int] = {}

    def note(self, key: str, nbytes: int, checksum: int) -> None:
        """Remember the checksum of a chunk that was put or read."""
        if nbytes < _WORTH or len(key) > _LONGEST_KEY:
            return
        if len(self._newer) >= _MOST:
            self._newer, self._older = {}, self._newer
        self._newer[key] = checksum

    def of(self, key: str) -> int | None:
        """The checksum that was noted last, if it is remembered."""
        found = self._newer.get(key)
        return self._older.get(key) if found is None else found
