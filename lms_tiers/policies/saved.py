"""The bytes a policy leaves behind for a warm restart: named arrays under a header and a checksum, no pickle.

Keys are saved as 64-bit hashes, 8 bytes each: a collision costs a misplaced key in an order, never a wrong chunk.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Iterable, Mapping
from typing import Any, Final

import xxhash

_MAGIC: Final = b"lms-tiers policy 1\n"

#: Most keys a policy saves of one kind (2 MiB of hashes).
MAX_SAVED_KEYS: Final = 1 << 18


def key_hash(key: str) -> int:
    """A stable 64-bit hash of a key's text.

    Examples
    --------
    >>> key_hash("a") == key_hash("a") != key_hash("b")
    True
    """
    return xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"))


def hashes(keys: Iterable[str]) -> array[int]:
    """The hashes of `keys`, in order."""
    return array("Q", map(key_hash, keys))


def pack(policy: str, sections: Mapping[str, array[Any]]) -> bytes:
    """Bytes that `unpack` reads back on any machine.

    Parameters
    ----------
    policy : str
        Name and version of the layout; other policies refuse it.
    sections : mapping of str to array
    """
    head = {"policy": policy, "sections": [[name, a.typecode, len(a)] for name, a in sections.items()]}
    body = b"".join(_little_endian(a).tobytes() for a in sections.values())
    data = json.dumps(head).encode() + b"\n" + body
    return _MAGIC + xxhash.xxh3_64_digest(data) + data


def unpack(policy: str, state: bytes) -> dict[str, array[Any]] | None:
    """The sections of `pack`, or None where the bytes are damaged, foreign or of another layout."""
    start = len(_MAGIC) + 8
    data = memoryview(state)[start:]
    if state[: len(_MAGIC)] != _MAGIC or xxhash.xxh3_64_digest(data) != state[len(_MAGIC) : start]:
        return None
    line_end = state.index(b"\n", start)
    head = json.loads(state[start:line_end])
    if head["policy"] != policy:
        return None
    sections: dict[str, array[Any]] = {}
    at = line_end + 1
    for name, typecode, count in head["sections"]:
        section: array[Any] = array(typecode)
        nbytes = count * section.itemsize
        section.frombytes(state[at : at + nbytes])
        sections[name] = _little_endian(section)
        at += nbytes
    return sections


def _little_endian(values: array[Any]) -> array[Any]:
    if sys.byteorder == "little":
        return values
    swapped = values[:]
    swapped.byteswap()
    return swapped
