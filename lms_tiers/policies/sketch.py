"""A count-min sketch of recent uses with four rows of small counters that are halved now and then.

G. Cormode and S. Muthukrishnan, Journal of Algorithms 55(1), 2005; ageing as in TinyLFU (G. Einziger et al., "TinyLFU:
A Highly Efficient Cache Admission Policy", ACM ToS 13(4), 2017).
"""

from __future__ import annotations

from typing import Final

_MAX: Final = 15
_HALVES: Final = bytes(i >> 1 for i in range(256))
_SEEDS: Final = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
_MASK: Final = (1 << 64) - 1
#: Uses per counter of a row after which all are halved.
_SAMPLE: Final = 10


class Sketch:
    """Estimates how often keys were used lately; four bytes a counter column, grown with the keys held."""

    __slots__ = ("_added", "_bits", "_rows")

    def __init__(self) -> None:
        self._bits = 10
        self._rows = [bytearray(1 << self._bits) for _ in _SEEDS]
        self._added = 0

    def fit(self, keys: int) -> None:
        """Have at least as many columns as `keys`; what was counted stays counted."""
        while (1 << self._bits) < keys:
            self._bits += 1
            # The column is the top bits of a product: each column becomes two neighbours.
            self._rows = [bytearray(c for c in row for _ in (0, 1)) for row in self._rows]

    def _columns(self, key: str) -> list[int]:
        h, shift = hash(key), 64 - self._bits
        return [((h ^ (h >> 29)) * seed & _MASK) >> shift for seed in _SEEDS]

    def add(self, key: str) -> None:
        """Count one use."""
        columns = self._columns(key)
        least = min(row[c] for row, c in zip(self._rows, columns, strict=True))
        if least < _MAX:
            for row, c in zip(self._rows, columns, strict=True):
                if row[c] == least:
                    row[c] += 1
        self._added += 1
        if self._added >= _SAMPLE << self._bits:
            self._rows = [row.translate(_HALVES) for row in self._rows]
            self._added >>= 1

    def count(self, key: str) -> int:
        """Uses lately; never too few since the last halving, sometimes too many."""
        return min(row[c] for row, c in zip(self._rows, self._columns(key), strict=True))
