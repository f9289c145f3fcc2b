"""How a chunk lies in the engine: a checked head and the bytes, in one string, or as a list where they are many.

The head is that of `lms_tiers.wire.head`. Beyond `PIECE` bytes the value is a list: the head, then pieces of the body.
One key, so it is written, read, evicted and removed whole. Anything else is no chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from xxhash import xxh3_64

from lms_tiers.client.connection import Buffer
from lms_tiers.messages import ChunkMeta
from lms_tiers.remote import Found
from lms_tiers.resp.link import Link, Refusal, command
from lms_tiers.wire.head import RECORD_BYTES, Head, bytes_after, head_of, pack_head

#: The longest body that is one string: longer ones make both sides slower, and hold up everybody else's requests.
PIECE: Final = 8 << 20

#: Bytes of packed metadata at most, so that no head of nonsense is read into memory: 255 dimensions and their record.
_METADATA: Final = 4096
#: Bytes that hold any head, but for its key.
LEAD: Final = RECORD_BYTES + _METADATA

#: Answers where the body goes, bytes that can be written; None where it is not wanted.
Room = Callable[[ChunkMeta], Any]


class Damaged:
    """The answer where what lies there is no whole chunk of this key."""


def put_frame(name: bytes, key: bytes, meta: ChunkMeta, body: memoryview, ttl: int | None) -> list[Buffer]:
    """The commands that store a chunk at `name`, whole or not at all; `ttl` is in milliseconds."""
    head = pack_head(key, meta, body)
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


def read_chunk(link: Link, key: bytes, room: Room, kind: bytes = b"$") -> Found | type[Damaged] | Any:
    """Read the answer to a `GET`, or with `kind` ``*`` to an `LRANGE`, its body into what `room` answers.

    Returns
    -------
    Found, Damaged, Refusal or None
        None where the key is absent. Whatever it is, the whole answer has been read.
    """
    size = link.number(kind)
    if isinstance(size, Refusal) or size < (0 if kind == b"$" else 1):
        return size if isinstance(size, Refusal) else None
    more = 0
    if kind == b"*":
        more, size = size - 1, _length(link)
    lead, found = _read_head(link, key, size)
    if found is not None:
        most = more * PIECE if kind == b"*" else size - lead
        if not most - PIECE < found.meta.length <= most:
            found = None  # before anybody allocates what it claims
    body = room(found.meta) if found is not None else None
    target = None if body is None else memoryview(body)
    digest = xxh3_64()  # of what has come, while more is on its way
    at = _read_body(link, target, 0, size - lead, digest)
    for _ in range(more):
        at = _read_body(link, target, at, _length(link), digest)
    if found is None or at != found.meta.length or (target is not None and digest.intdigest() != found.checksum):
        return Damaged
    return found.meta, body


def _length(link: Link) -> int:
    size = link.number(b"$")
    if isinstance(size, Refusal) or size < 0:
        raise link.broken("sent a list with a hole in it.")
    return size


def _read_body(link: Link, target: memoryview | None, at: int, size: int, digest: xxh3_64) -> int:
    """Read a piece, or pass over it where there is no room for it; answers where the next one begins."""
    if target is not None and at + size <= len(target):
        link.read_into(target[at : at + size], digest)
    else:
        link.skip(size)
    link.line()
    return at + size


def _read_head(link: Link, key: bytes, size: int) -> tuple[int, Head | None]:
    """How many bytes were read, and the head if it is one of `key`."""
    if size < RECORD_BYTES:
        return 0, None
    record = link.read(RECORD_BYTES)
    more = bytes_after(record)
    if size < RECORD_BYTES + more or more > len(key) + _METADATA:
        return RECORD_BYTES, None
    return RECORD_BYTES + more, head_of(key, record + link.read(more))
