"""How a chunk lies in the engine: a checked head and the bytes, in one string, or as a list where they are many.

The head is a fixed record, the packed metadata and the key's text. Beyond `PIECE` bytes the value is a list: the head,
then pieces of the body. One key, so it is written, read, evicted and removed whole. Anything else is no chunk.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from xxhash import xxh3_64_intdigest

from lms_tiers.client.connection import Buffer
from lms_tiers.errors import FormatError
from lms_tiers.messages import ChunkMeta
from lms_tiers.resp.link import Link, Refusal, command

#: The longest body that is one string: longer ones make both sides slower, and hold up everybody else's requests.
PIECE: Final = 8 << 20

#: Magic, bytes of metadata, bytes of the key, checksum of the body, checksum of all the head before and after this one.
_HEAD: Final = struct.Struct("<4sHIQQ")
_MAGIC: Final = b"LMR1"
_CHECKED: Final = _HEAD.size - 8

#: Answers where the body goes; None where it is not wanted.
Allocate = Callable[[ChunkMeta], memoryview | None]


class Damaged:
    """The answer where what lies there is no whole chunk of this key."""


def put_frame(name: bytes, key: bytes, meta: ChunkMeta, body: memoryview, ttl: int | None) -> list[Buffer]:
    """The commands that store a chunk at `name`, whole or not at all; `ttl` is in milliseconds."""
    head = _head(key, meta, body)
    if len(body) <= PIECE:
        return command(b"SET", name, (head, body), *([] if ttl is None else [b"PX", b"%d" % ttl]))
    pieces = [(body[i : i + PIECE],) for i in range(0, len(body), PIECE)]
    written = [command(b"MULTI"), command(b"UNLINK", name), command(b"RPUSH", name, head, *pieces)]
    kept = [] if ttl is None else [command(b"PEXPIRE", name, b"%d" % ttl)]
    return [buffer for frame in (*written, *kept, command(b"EXEC")) for buffer in frame]


def put_answer(link: Link, meta: ChunkMeta, ttl: int | None) -> Any:
    """What came of it: a `Refusal`, or anything else where it is stored."""
    # MULTI, what it queues, and EXEC; or a SET.
    replies = [link.expect(bytes) for _ in range(1 if meta.length <= PIECE else 3 + (ttl is not None))]
    done = [] if meta.length <= PIECE else link.expect(list)
    replies += done if isinstance(done, list) else [done]
    if refused := [reply for reply in replies if isinstance(reply, Refusal)]:
        return refused[0]
    if replies[0] != b"OK" or not all(isinstance(reply, int) for reply in done):
        raise link.broken("answered a write with something else.")
    return None


def _head(key: bytes, meta: ChunkMeta, body: memoryview) -> bytes:
    packed = meta.pack()
    record = _HEAD.pack(_MAGIC, len(packed), len(key), xxh3_64_intdigest(body), 0)[:_CHECKED]
    rest = packed + key
    return record + struct.pack("<Q", xxh3_64_intdigest(record + rest)) + rest


def read_chunk(link: Link, key: bytes, allocate: Allocate, kind: bytes = b"$") -> ChunkMeta | type[Damaged] | Any:
    """Read the answer to a `GET`, or with `kind` ``*`` to an `LRANGE`, its body into what `allocate` answers.

    Returns
    -------
    ChunkMeta, Damaged, Refusal or None
        None where the key is absent. Whatever it is, the whole answer has been read.
    """
    size = link.number(kind)
    if isinstance(size, Refusal) or size < (0 if kind == b"$" else 1):
        return size if isinstance(size, Refusal) else None
    more = 0
    if kind == b"*":
        more, size = size - 1, _length(link)
    lead, found = _read_head(link, key, size)
    if found and not (size - lead == found[0].length if kind == b"$" else 0 <= more * PIECE - found[0].length < PIECE):
        found = None  # before anybody allocates what it claims
    target = allocate(found[0]) if found else None
    at = _read_body(link, target, 0, size - lead)
    for _ in range(more):
        at = _read_body(link, target, at, _length(link))
    if found is None or at != found[0].length:
        return Damaged
    return found[0] if target is None or xxh3_64_intdigest(target) == found[1] else Damaged


def _length(link: Link) -> int:
    size = link.number(b"$")
    if isinstance(size, Refusal) or size < 0:
        raise link.broken("sent a list with a hole in it.")
    return size


def _read_body(link: Link, target: memoryview | None, at: int, size: int) -> int:
    """Read a piece, or pass over it where there is no room for it; answers where the next one begins."""
    if target is not None and at + size <= len(target):
        link.read_into(target[at : at + size])
    else:
        link.skip(size)
    link.line()
    return at + size


def _read_head(link: Link, key: bytes, size: int) -> tuple[int, tuple[ChunkMeta, int] | None]:
    """How many bytes were read, and the metadata with the checksum of the body if this is a head of `key`."""
    if size < _HEAD.size:
        return 0, None
    record = link.read(_HEAD.size)
    _, packed, named, _, _ = _HEAD.unpack(record)
    if size < _HEAD.size + packed + named or named != len(key):
        return _HEAD.size, None
    head = record + link.read(packed + named)
    found = parsed(head)
    return len(head), found[:2] if found and found[2] == key else None


def parsed(head: bytes) -> tuple[ChunkMeta, int, bytes] | None:
    """Metadata, checksum of the body, and key, out of bytes that begin with a head; None where they do not."""
    if len(head) < _HEAD.size:
        return None
    magic, packed, named, body, checked = _HEAD.unpack_from(head)
    rest = head[_HEAD.size : _HEAD.size + packed + named]
    if magic != _MAGIC or len(rest) < packed + named or xxh3_64_intdigest(head[:_CHECKED] + rest) != checked:
        return None
    try:
        meta, size = ChunkMeta.unpack(rest)
    except FormatError:
        return None
    return (meta, body, rest[packed:]) if size == packed else None
