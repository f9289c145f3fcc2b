"""Mooncake's client, and what of a chunk must be done beside it; runs apart, see `lms_tiers.apart.child`.

It knows names, places and the number that an object begins with. The engine overwrites in place: while it does, and for
ever where the writer dies, neither chunk can be read. So a key has two names. A put writes the one that is free, under
a higher number, and then removes the other; of two that are there the higher number counts.
"""

from __future__ import annotations

import contextlib
import ctypes
import random
import struct
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

#: What an object begins with: its number, and a checksum of that.
NUMBER = struct.Struct("<QI")
#: Bytes of a lane's memory that no object of a put lies in: they are for numbers.
ASIDE = 4096
#: Numbers of the engine (its `ErrorCode`): too small a buffer; not there, or not yet; a name that is taken, or a write
#: that somebody else has overtaken.
INVALID = -600
ABSENT = (-703, -704, -710, -712)
_OVERTAKEN = (-601, -700, -703, -704, -705, -713, -714)
#: How often a chunk is looked for that goes from one name to the other meanwhile.
_TURNS = 4


def number_of(data: Any) -> int:
    """The number that an object begins with; 0 where it is none."""
    number, check = NUMBER.unpack_from(data) if len(data) >= NUMBER.size else (0, 0)
    return int(number) if zlib.crc32(data[:8]) == check else 0


def numbered(lower: int) -> tuple[int, bytes]:
    """A higher number, and how an object begins with it; the low bits are drawn: no two writers take the same one."""
    number = ((lower >> 16) + 1) << 16 | random.getrandbits(16)
    return number, NUMBER.pack(number, zlib.crc32(number.to_bytes(8, "little")))


def _both(names: list[str]) -> list[str]:
    return [name + end for name in names for end in (".0", ".1")]


def _pairs(items: Iterable[Any]) -> list[tuple[Any, Any]]:
    each = iter(items)
    return list(zip(each, each, strict=True))


class Engine:
    """The store, and what may be asked of it; `at` is the address of the lane's `memory`."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._busy: set[str] = set()
        self._change = threading.Condition()

    def read(self, memory: memoryview, at: int, names: list[str], room: int) -> Any:
        """Read both objects of each key, each into `room` bytes: place and length of those there are, or the error."""
        both = _both(names)
        places, sizes = [i * room for i in range(len(both))], [room] * len(both)
        for _ in range(_TURNS):
            codes = self._store.batch_get_into(both, [at + place for place in places], sizes)
            there = [[pair for pair in two if pair[1] not in ABSENT] for two in _pairs(zip(places, codes, strict=True))]
            # Between its looks at the two a put may have taken the chunk from one name to the other.
            gone = [name for name, found in zip(names, there, strict=True) if not found]
            if not gone or not any(self.exist(memory, at, gone)):
                break
        return [min((size for _, size in found if size <= 0), default=found) for found in there]

    def exist(self, memory: memoryview, at: int, names: list[str]) -> Any:
        """For each key 1 where it has an object that is complete, else 0."""
        found = dict.fromkeys(names, 0)
        for _ in range(2):  # see `read`
            if left := [name for name, there in found.items() if not there]:
                codes = _pairs(self._store.batch_is_exist(_both(left)))
                found.update(zip(left, map(max, codes), strict=True))
                if (worst := min(map(min, codes))) < 0:
                    raise OSError(f"it answers {worst}")
        return [found[name] for name in names]

    def put(self, memory: memoryview, at: int, objects: list[tuple[str, int, int]], seconds: float) -> Any:
        """Write objects (key, place, length): for each 0, or the engine's error; its negative: it may be written.

        It tries for so many seconds. Who has begun to write the same key, and has not ended in half of them, or in
        a second, is taken for dead.
        """
        began, pause, left, names = time.monotonic(), 0.001, objects, [name for name, _, _ in objects]
        answers = dict.fromkeys(names, _OVERTAKEN[0])
        with self._alone(names):
            try:
                there = self._numbers(memory, at, names)
            except OSError as error:  # nothing is written yet
                return [error.errno] * len(names)
            while left and (taken := time.monotonic() - began) < seconds:
                late, chosen, mine = taken > min(seconds / 2, 1), [], {}
                if late:
                    self._settle(there)
                for name, place, _ in left:
                    first, second = there[name]
                    chosen.append(name + (".1" if second < first else ".0"))
                    mine[name], memory[place : place + NUMBER.size] = numbered(max(first, second))
                write = self._store.batch_upsert_from if late else self._write
                codes = write(chosen, [at + place for _, place, _ in left], [size for _, _, size in left])
                there = self._numbers(memory, at, list(mine))
                self._settle({name: pair for name, pair in there.items() if mine[name] in pair})
                answers.update(zip(mine, codes, strict=True))
                left = [one for one in left if answers[one[0]] in _OVERTAKEN]
                if left:
                    time.sleep(pause)  # for writers on other hosts: nothing tells of their end
                    pause = min(2 * pause, 0.05)
        return [answers[name] for name in names]

    def remove(self, memory: memoryview, at: int, names: list[str]) -> None:
        """Remove both objects of each key."""
        with self._alone(names):
            self._settle(self._numbers(memory, at, names))  # else what was overwritten could be seen again
            self._remove(_both(names))

    # -- within one request ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self, names: list[str]) -> Iterator[None]:
        """No two writers of this process at one key: the engine takes them for one."""
        with self._change:
            self._change.wait_for(lambda: self._busy.isdisjoint(names))
            self._busy.update(names)
        try:
            yield
        finally:
            with self._change:
                self._busy.difference_update(names)
                self._change.notify_all()

    def _write(self, names: list[str], places: list[int], sizes: list[int]) -> list[int]:
        """Write objects under names that are free. Of one that is taken the engine's own `put` answers 0."""
        codes = list(self._store.batch_put_session_start(names, sizes))
        begun = [i for i, code in enumerate(codes) if code == 0]
        given = [names[i] for i in begun], [[places[i]] for i in begun], [[sizes[i]] for i in begun], [[0]] * len(begun)
        moved = self._store.batch_put_from_multi_buffer_ranges(*given) if begun else []
        for i, code in zip(begun, moved, strict=True):
            end = self._store.batch_put_session_revoke if code < 0 else self._store.batch_put_session_end
            (ended,) = end([names[i]])
            codes[i] = min(code, 0) or (ended if ended in _OVERTAKEN else -ended)
        return codes

    def _numbers(self, memory: memoryview, at: int, names: list[str]) -> dict[str, tuple[int, int]]:
        """The numbers of both objects of each key, 0 where there is none."""
        both, size = _both(names), NUMBER.size
        places, ends = [[i * size] for i in range(len(both))], ([[0]] * len(both), [[size]] * len(both))
        (codes,) = self._store.get_into_ranges([at], [both], [places], *([one] for one in ends)) if both else ((),)
        numbers = []
        for (place,), (code,) in zip(places, codes, strict=True):
            if code != size and code != INVALID and code not in ABSENT:
                raise OSError(code, f"it answers {code} to a look")
            # What is no chunk, or too short to be one, counts for less than any.
            numbers.append(max(number_of(memory[place:]), 1) if code == size else int(code == INVALID))
        return dict(zip(names, _pairs(numbers), strict=True))

    def _settle(self, numbers: dict[str, tuple[int, int]]) -> None:
        """Remove what a put has overtaken: of two objects of a key the one with the lower number."""
        self._remove([name + (".0" if a < b else ".1") for name, (a, b) in numbers.items() if a and b])

    def _remove(self, names: list[str]) -> None:
        # Also those that somebody read a moment ago. What somebody is writing now he will settle himself.
        for code in self._store.batch_remove(names, True) if names else ():
            if code and code not in ABSENT:
                raise OSError(f"it answers {code} to a removal")


def start(told: dict[str, Any], memory: memoryview) -> tuple[Engine, int]:
    """Connect to the store, and register the memory."""
    from mooncake.store import MooncakeDistributedStore

    store, at = MooncakeDistributedStore(), ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if code := store.setup(told["host"], told["metadata"], 0, 0, told["protocol"], told["device"], told["master"]):
        raise OSError(f"its client cannot be set up ({code})")
    if code := store.register_buffer(at, len(memory)):
        raise OSError(f"it registers no buffer ({code})")
    return Engine(store), at
