"""Buffers to read into, of many kinds and pieces, that tell whether just the right bytes were written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lms_conformance.violation import expect

#: What a buffer holds before it is read into.
FILL: Final = 0xA5


@dataclass(frozen=True, slots=True)
class Canvas:
    """Writable pieces of one array, with bytes between and around them that nobody may touch.

    Attributes
    ----------
    buffers : list
        The pieces, to be handed over.
    room : int
        Bytes of all pieces.
    """

    array: Any
    buffers: list[Any]
    places: tuple[tuple[int, int], ...]

    @property
    def room(self) -> int:
        """Bytes of all pieces together."""
        return sum(size for _, size in self.places)

    @property
    def code(self) -> str:
        """The pieces as Python."""
        return f"[{', '.join(f'bytearray({size})' for _, size in self.places)}]"

    def expect(self, data: bytes, what: str) -> None:
        """The pieces begin with `data`, one after another; all else is as it was."""
        want = np.full(len(self.array), FILL, dtype=np.uint8)
        at = 0
        for begin, size in self.places:
            part = data[at : at + size]
            want[begin : begin + len(part)] = np.frombuffer(part, np.uint8)
            at += len(part)
        if np.array_equal(want, self.array):
            return
        where = int(np.argmax(want != self.array))
        inside = any(begin <= where < begin + size for begin, size in self.places)
        expect(
            False,
            f"{what} to write the {len(data)} bytes of the chunk and nothing else",
            f"byte {where} of the destination is {self.array[where]:#04x}, not {want[where]:#04x}"
            + ("" if inside else ", outside of the buffers that were given"),
        )


def canvases(size: int, how: int, *, whole: bool = False) -> Canvas:
    """Room for `size` bytes, and some more where `how` is not 0.

    Parameters
    ----------
    size, how : int
        Of one `how`, pieces of one kind: an array, one of two dimensions, a view into the middle of another, several.
    whole : bool
        One piece.
    """
    extra = (0, 1, 7, 4096)[how % 4] if how else 0
    pieces = [size + extra]
    if not whole and how % 3 == 1:
        pieces = [size // 3, 0, size - size // 3 + extra]
    elif not whole and how % 3 == 2:
        pieces = [min(4096, size - at) for at in range(0, size, 4096)] + [extra]
    places, at = [], 8
    for piece in pieces:
        places.append((at, piece))
        at += piece + 8
    array = np.full(at, FILL, dtype=np.uint8)
    buffers = [_form(array[begin : begin + piece], how // 2 + i) for i, (begin, piece) in enumerate(places)]
    return Canvas(array, buffers, tuple(places))


def _form(part: Any, how: int) -> Any:
    match how % 4:
        case 1:
            return part.reshape(-1, 1)
        case 2:
            return memoryview(part)
        case 3 if part.nbytes and part.nbytes % 2 == 0:
            return part.view(np.int16)
        case _:
            return part
