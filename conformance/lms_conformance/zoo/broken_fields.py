"""Mutants that lose one field of a key, or tell keys apart by a short digest of them."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import xxhash

from lms_conformance.zoo.mutant import Wrapper, mutant, text_of, with_key
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ClientMetaMessage, LMSMemoryObj, OpaqueKey

_CURRENT = re.compile(r"(.+)@(\d+)@(\d+)@(-?[0-9a-f]+)@([a-z0-9_]+)((?:@\d+)?)((?:@[^@%]+%[^@]*)*)")


class _Aliased(Wrapper):
    """Keeps chunks under the first text that was put of those it takes for one, and lists them by the newest."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._known: dict[str, str] = {}

    def name(self, text: str) -> str:
        """What a text is known by."""
        return text

    def _alias(self, key: Any) -> Any:
        text = text_of(key)
        return OpaqueKey(self._known.get(self.name(text), text)) if text else key

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Under the first text."""
        key = self._alias(client_meta.key)
        same = text_of(key) == text_of(client_meta.key)
        self.inner.put(client_meta if same else with_key(client_meta, key), kv_chunk_bytes)
        self._known.setdefault(self.name(text_of(client_meta.key)), text_of(client_meta.key))

    def put_many(self, items: Sequence[tuple[ClientMetaMessage, bytearray]]) -> None:
        """Each so."""
        for message, data in items:
            self.put(message, data)

    def contains(self, key: CacheEngineKey) -> bool:
        """Of the first text."""
        return self.inner.contains(self._alias(key))

    def contains_many(self, keys: Sequence[CacheEngineKey]) -> list[bool]:
        """Each so."""
        return [self.contains(key) for key in keys]

    def get(self, key: CacheEngineKey) -> LMSMemoryObj | None:
        """Of the first text."""
        return self.inner.get(self._alias(key))

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """Each so."""
        return [self.get(key) for key in keys]

    def remove(self, key: CacheEngineKey) -> None:
        """Of the first text."""
        self.inner.remove(self._alias(key))


class _Forgets(_Aliased):
    """Forgets one field of the current layout."""

    field: ClassVar[int]

    def name(self, text: str) -> str:
        """Without it."""
        match = _CURRENT.fullmatch(text)
        return text if match is None else "@".join(g for i, g in enumerate(match.groups(), 1) if i != self.field)


@mutant("forgets-the-model", "KEY-12")
class ForgetsModel(_Forgets):
    """Takes chunks of two models for one."""

    field = 1


@mutant("forgets-the-world-size", "KEY-12")
class ForgetsWorld(_Forgets):
    """Takes chunks of two world sizes for one."""

    field = 2


@mutant("forgets-the-worker", "KEY-12")
class ForgetsWorker(_Forgets):
    """Takes chunks of two workers for one."""

    field = 3


@mutant("forgets-the-dtype-of-keys", "KEY-12")
class ForgetsDtype(_Forgets):
    """Takes chunks of two dtypes for one."""

    field = 5


@mutant("forgets-the-layer", "KEY-12")
class ForgetsLayer(_Forgets):
    """Takes chunks of two layers for one."""

    field = 6


@mutant("forgets-the-last-tag", "KEY-12")
class ForgetsLastTag(_Aliased):
    """Takes chunks of two salts for one, where a tag stands before the salt."""

    def name(self, text: str) -> str:
        """Without the last."""
        match = _CURRENT.fullmatch(text)
        tags = match[7].split("@")[1:] if match else []
        return text if len(tags) < 2 else text.removesuffix(f"@{tags[-1]}")


@mutant("knows-two-of-each-tag", "KEY-12")
class CutsTagValues(_Aliased):
    """Cuts the values of tags to four letters."""

    def name(self, text: str) -> str:
        """Cut."""
        return re.sub(r"%([^@]{4})[^@]*", r"%\1", text)


@mutant("keeps-32-bits-of-a-hash", "KEY-12")
class Keeps32(_Aliased):
    """Keeps the last 32 bits of a key's hash."""

    def name(self, text: str) -> str:
        """Without the others."""
        return re.sub(r"@-?[0-9a-f]+([0-9a-f]{8})(?=@|$)", r"@\1", text)


@mutant("reads-numbers-of-keys-as-numbers", "KEY-12")
class ReadsNumbers(_Aliased):
    """Takes a worker of 03 for worker 3."""

    def name(self, text: str) -> str:
        """Without noughts before them."""
        return re.sub(r"@0+(\d+)(?=@)", r"@\1", text)


@mutant("forgets-the-format-of-old-keys", "KEY-12")
class ForgetsFormat(_Aliased):
    """Drops the format that keys of the old layout begin with."""

    def name(self, text: str) -> str:
        """Without it."""
        return re.sub(r"^[a-z0-9]+@(?=[^@]+@\d+@\d+@[^@]+(?:@[^@]+%[^@]*)*$)", "", text)


@mutant("removes-for-all-workers", "KEY-12")
class RemovesForAll(Wrapper):
    """Removes what differs from a key in its worker alone."""

    def remove(self, key: CacheEngineKey) -> None:
        """And those of the other workers."""
        self.inner.remove(key)
        match = _CURRENT.fullmatch(text_of(key))
        if match is None:
            return
        for other in self.inner.list_keys():
            found = _CURRENT.fullmatch(other.to_string())
            if found is not None and found.groups()[:2] + found.groups()[3:] == match.groups()[:2] + match.groups()[3:]:
                self.inner.remove(other)


def _by(name: str, sentence: str, digest: Callable[[bytes], Any]) -> None:
    """Register a mutant that knows keys by a digest."""

    def known(self: Any, text: str) -> str:
        return str(digest(text.encode(errors="surrogatepass")))

    mutant(name, "KEY-13")(type(name, (_Aliased,), {"__doc__": sentence, "name": known, "__module__": __name__}))


_by("knows-keys-by-crc32", "Takes keys of one CRC-32 for one.", zlib.crc32)
_by("knows-keys-by-adler32", "Takes keys of one Adler-32 for one.", zlib.adler32)
_by(
    "knows-keys-by-8-digits-of-md5",
    "Takes keys for one whose MD5 begins alike.",
    lambda b: hashlib.md5(b).hexdigest()[:8],
)
_by("knows-keys-by-10-digits-of-sha256", "Takes keys for one whose SHA-256 begins alike.",
    lambda b: hashlib.sha256(b).hexdigest()[:10])  # fmt: skip
_by("knows-keys-by-the-end-of-sha256", "Takes keys for one whose SHA-256 ends alike.",
    lambda b: int(hashlib.sha256(b).hexdigest(), 16) % 2**32)  # fmt: skip
_by("knows-keys-by-32-bits-of-xxh64", "Takes keys for one whose XXH64 ends alike.",
    lambda b: xxhash.xxh64_intdigest(b) & 0xFFFFFFFF)  # fmt: skip
_by("knows-keys-by-their-sum", "Takes keys of one length and sum for one.", lambda b: (len(b), sum(b)))
