"""Each way to read one chunk whole, for a process of the kit's that opens what was damaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from lms_conformance.chunks import Chunk, difference, key
from lms_conformance.line import Line
from lms_conformance.reading import flat
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import ChunkMeta, MemoryFormat


def _into(backend: LMSBackendInterface, k: Any, room: bytearray) -> ChunkMeta | None:
    return backend.get_into(k, room)


def _lent(backend: LMSBackendInterface, k: Any, room: bytearray) -> ChunkMeta | None:
    with backend.view(k) as view:
        if view is None:
            return None
        data = b"".join(bytes(memoryview(piece).cast("B")) for piece in view.buffers)
        room[:] = data
        return view.meta


def _tensor(backend: LMSBackendInterface, k: Any, room: bytearray) -> ChunkMeta | None:
    found = backend.get_tensor(k)
    if found is None:
        return None
    room[:] = flat(found)
    return ChunkMeta(len(room), MemoryFormat.KV_2LTD, "uint8", tuple(found.shape))


def _of_many(backend: LMSBackendInterface, k: Any, room: bytearray) -> ChunkMeta | None:
    (found,) = backend.get_many([k])
    if found is None:
        return None
    room[:] = bytes(found.data)
    return ChunkMeta.of_obj(k, found)


#: Each way to read, into a buffer of the chunk's length; it answers the metadata, or None.
WAYS: Final[Mapping[str, Callable[[LMSBackendInterface, Any, bytearray], ChunkMeta | None]]] = {
    "get_many": _of_many,
    "get_into": _into,
    "get_scattered": lambda b, k, room: b.get_scattered(k, [room]),
    "get_many_into": lambda b, k, room: b.get_many_into([(k, [room])])[0],
    "view": _lent,
    "get_tensor": _tensor,
}


def read_ways(backend: LMSBackendInterface, chunks: Mapping[str, tuple[int, int]], line: Line) -> None:
    """Read each key, which was damaged, by the way that it is named after, then put it anew and read it again."""
    missed = 0
    for way, (seed, size) in chunks.items():
        old, new = (Chunk(s, size, meta=("uint8", "KV_2LTD", (size,))) for s in (seed, seed + 50))
        found, wrong = _by(backend, way, old)
        missed += not found
        line.say({"way": way, "found": found, "wrong": wrong if found else None})
        backend.put(new.message(key(way)), new.data())
        for again in (way, "get_many", "view"):
            found, wrong = _by(backend, again, new, way)
            line.say({"way": again, "again": wrong if found else "a miss"})
        wrong = difference(new, backend.get(key(way)))
        line.say({"way": "get", "again": wrong})
    backend.list_keys()
    stats = backend.stats()
    line.say({"stats": stats.corrupt + stats.failures, "missed": missed})
    backend.close()


def _by(backend: LMSBackendInterface, way: str, chunk: Chunk, k: str = "") -> tuple[bool, str | None]:
    """Whether it was found, and what is wrong with it."""
    room = bytearray(len(chunk))
    meta = WAYS[way](backend, key(k or way), room)
    if meta is None:
        return False, None
    return True, difference(chunk, meta.memory_obj(bytes(room)))
