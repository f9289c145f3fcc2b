"""Mutants that take some values for nothing, for an end, for encoded, or for one another."""

from __future__ import annotations

import hashlib
import pickle
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Optional

from lms_conformance.zoo.mutant import Wrapper, mutant, text_of
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ClientMetaMessage, LMSMemoryObj

PAGE = 4096


class _Changes(Wrapper):
    """Answers other bytes than were put."""

    def change(self, data: bytes) -> bytes | None:
        """What is answered instead; None: a miss."""
        return data

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """Changed."""
        obj = self.inner.get(key)
        data = None if obj is None else self.change(bytes(obj.data))
        if obj is None or data is None:
            return None
        return _answer(obj, data)


def _answer(obj: LMSMemoryObj, data: bytes) -> LMSMemoryObj:
    return LMSMemoryObj(bytearray(data), len(data), obj.fmt, obj.dtype, obj.shape)


def _changing(name: str, kill: str, sentence: str, change: Callable[[bytes], bytes | None]) -> None:
    """Register a mutant of `_Changes`."""
    body = {"__doc__": sentence, "change": lambda self, data: change(data), "__module__": __name__}
    mutant(name, kill)(type(name, (_Changes,), body))


_changing("takes-zeros-for-absent", "PUT-14", "Takes a chunk of nothing but zeros for absent.",
          lambda d: None if d and not any(d) else d)  # fmt: skip
_changing("takes-ones-for-erased", "PUT-14", "Takes bytes of 0xff at a chunk's end for erased flash.",
          lambda d: d.rstrip(b"\xff") if len(d) > 16 else d)  # fmt: skip
_changing("strips-blanks-of-values", "PUT-14", "Strips blanks at a chunk's end.", lambda d: d.rstrip(b" \n"))
_changing("counts-runs-in-a-byte", "PUT-14", "Encodes runs, and counts them in a byte.",
          lambda d: d[:255] + d[256:] if len(d) > 255 and len(set(d[:256])) == 1 else d)  # fmt: skip
_changing("loses-a-late-match", "PUT-14", "Finds repeats with offsets of 16 bits.",
          lambda d: d[:65536] + b"\x99" + d[65537:] if len(d) > 131072 and d[:99] == d[65536:65635] else d)  # fmt: skip
_changing("punches-holes", "PUT-14", "Leaves pages of zeros out behind the first, and reads ones there.",
          lambda d: b"".join(p if i == 0 or any(p) else b"\xff" * len(p) for i, p in _pages(d)))  # fmt: skip
_changing("folds-line-ends", "PUT-15", "Folds line ends of text.",
          lambda d: d.replace(b"\r\n", b"\n") if len(d) < 64 else d)  # fmt: skip
_changing("ends-at-a-nul", "PUT-15", "Ends short values at a NUL.", lambda d: d.split(b"\0")[0] if len(d) < 16 else d)
_changing(
    "takes-none-for-nothing", "PUT-15", "Takes the value None for nothing.", lambda d: None if d == b"None" else d
)
_changing("takes-a-tombstone-for-removed", "PUT-15", "Marks what is removed by a value.",
          lambda d: None if d == b"__tombstone__" else d)  # fmt: skip
_changing("reads-what-redis-says", "PUT-15", "Takes a value that begins like an error for one.",
          lambda d: None if d.startswith((b"-ERR", b"$-1")) else d)  # fmt: skip
_changing("drops-a-byte-order-mark", "PUT-15", "Drops a byte order mark.", lambda d: d.removeprefix(b"\xef\xbb\xbf"))


def _pages(data: bytes) -> list[tuple[int, bytes]]:
    return [(at, data[at : at + PAGE]) for at in range(0, len(data), PAGE)]


def _inflated(data: bytes) -> bytes | None:
    if data[:2] in (b"\x78\x9c", b"\x1f\x8b") or data[:4] == b"\x28\xb5\x2f\xfd":
        try:
            return zlib.decompress(data)
        except zlib.error:
            return None
    return data


_changing("inflates-what-looks-deflated", "PUT-15", "Decompresses what begins like a compressed value.", _inflated)


def _unpickled(data: bytes) -> bytes | None:
    if data[:1] == b"\x80" and data[-1:] == b".":
        found = pickle.loads(data) if len(data) < 40 else data
        return found if isinstance(found, bytes) and found else None
    return data


_changing("loads-what-looks-pickled", "PUT-15", "Loads what looks like a pickle.", _unpickled)


class _Skips(Wrapper):
    """Skips an overwrite by what it takes for the same bytes and metadata."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._seen: dict[str, Any] = {}

    def look(self, data: bytes) -> Any:
        """What the bytes are known by."""
        return data

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Unless it seems the same."""
        seems = self.look(bytes(kv_chunk_bytes)), client_meta.length, str(client_meta.dtype), tuple(client_meta.shape)
        key = text_of(client_meta.key)
        if not key or self._seen.get(key) != seems or not self.inner.contains(client_meta.key):
            self.inner.put(client_meta, kv_chunk_bytes)
            self._seen[key] = seems

    def put_many(self, items: Sequence[tuple[ClientMetaMessage, bytearray]]) -> None:
        """Each so."""
        for message, data in items:
            self.put(message, data)


class _Shares(_Skips):
    """Stores one copy of what it takes for the same bytes, for all keys."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._copies: dict[Any, bytes] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """The first of those."""
        data = bytes(kv_chunk_bytes)
        self.inner.put(client_meta, bytearray(self._copies.setdefault((len(data), self.look(data)), data)))


def _looking(name: str, base: type[_Skips], sentence: str, look: Callable[[bytes], Any]) -> None:
    """Register a mutant that tells values apart by a look."""
    body = {"__doc__": sentence, "look": lambda self, data: look(data), "__module__": __name__}
    mutant(name, "PUT-16")(type(name, (base,), body))


_looking("skips-overwrites-of-one-crc32", _Skips, "Skips an overwrite with the CRC-32 of the chunk before.", zlib.crc32)
_looking(
    "skips-overwrites-of-one-adler32", _Skips, "Skips an overwrite with the Adler-32 of the chunk before.", zlib.adler32
)
_looking("skips-overwrites-alike-at-both-ends", _Skips, "Skips an overwrite that begins and ends like the old one.",
         lambda d: (d[:512], d[-512:]))  # fmt: skip
_looking("skips-overwrites-of-one-sum", _Skips, "Skips an overwrite whose bytes have the same sum.", sum)
_looking("shares-by-a-sample", _Shares, "Stores chunks once of which every 64th byte is the same.", lambda d: d[::64])
_looking("shares-by-the-first-page", _Shares, "Stores chunks once whose first pages are the same.", lambda d: d[:PAGE])
_looking("shares-by-the-last-bytes", _Shares, "Stores chunks once whose last 64 bytes are the same.", lambda d: d[-64:])
_looking("shares-by-8-digits-of-sha1", _Shares, "Stores chunks once whose SHA-1 begins alike.",
         lambda d: hashlib.sha1(d).hexdigest()[:8])  # fmt: skip


@mutant("shares-pages-with-equal-heads", "PUT-14")
class SharesPages(_Changes):
    """Stores pages of a chunk once that begin alike."""

    def change(self, data: bytes) -> bytes | None:
        """The first of those."""
        known: dict[bytes, bytes] = {}
        return b"".join(known.setdefault(p[:512] if len(p) == PAGE else p, p) for _, p in _pages(data))
