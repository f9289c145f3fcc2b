"""How a chunk lies in the store: a number, a checked head and the bytes, as one object under one of two names.

The engine overwrites in place: while it does, and for ever where the writer dies, neither chunk can be read. So a put
writes the name that is free, with a higher number, and then removes the other; of two that are there the higher number
counts. The head is that of `lms_tiers.wire.head`, of number and key together.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from lms_tiers.buffers import copy_bytes
from lms_tiers.messages import ChunkMeta
from lms_tiers.wire.head import pack_head, read_head

#: Bytes of a key; in a name each of them may take three.
MAX_KEY: Final = 4096
#: Bytes that hold any number and head, and those that hold most.
HEAD: Final = 1 << 14
_LEAD: Final = 1024

NUMBER: Final = struct.Struct("<Q")


def names_of(prefix: str, text: str) -> tuple[str, str]:
    """The two names of a key; `prefix` is quoted."""
    name = prefix + quote(text, safe="@")
    return f"{name}.0", f"{name}.1"


def listed(prefix: str, names: Sequence[str]) -> list[str]:
    """The keys of these names, each once; what nobody here has written is left out."""
    found = dict.fromkeys(unquote(name[len(prefix) : -2]) for name in names if name.startswith(prefix))
    there = set(names)
    return [text for text in found if text and not there.isdisjoint(names_of(prefix, text))]


def pack_into(memory: memoryview, text: str, meta: ChunkMeta, body: memoryview, above: int) -> int:
    """Lay a chunk into memory, under a number higher than `above`; answers its bytes."""
    # The low bits are drawn, so that no two writers take the same number.
    number = NUMBER.pack(((above >> 16) + 1) << 16 | random.getrandbits(16))
    head = number + pack_head(number + text.encode(), meta, body)
    memory[: len(head)] = head
    copy_bytes(memory[len(head) : len(head) + len(body)], body)
    return len(head) + len(body)


class Found(NamedTuple):
    """A whole chunk of a key."""

    number: int
    meta: ChunkMeta
    body: memoryview


def read_object(text: str, data: memoryview) -> Found | None:
    """The chunk that an object is; None where it is no whole chunk of this key."""
    start = NUMBER.size
    head = read_head(bytes(data[start : start + _LEAD])) or read_head(bytes(data[start:HEAD]))
    if head is None or head.key != bytes(data[:start]) + text.encode() or not head.fits(data[start + head.size :]):
        return None
    return Found(NUMBER.unpack_from(data)[0], head.meta, data[start + head.size :])
