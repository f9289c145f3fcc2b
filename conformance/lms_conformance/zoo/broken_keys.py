"""Mutants that mistake keys for one another, or change them."""

from __future__ import annotations

import re
import unicodedata
import zlib
from typing import Any, List, Optional

from lms_conformance.zoo.mutant import Wrapper, mutant, text_of, with_key
from lms_tiers.errors import InvalidKeyError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ClientMetaMessage, LMSMemoryObj, OpaqueKey


class Rekeyed(Wrapper):
    """Stores each chunk under another text."""

    def rekey(self, key: Any) -> Any:
        """The key that is used instead."""
        return OpaqueKey(self.retext(text_of(key)))

    def retext(self, text: str) -> str:
        """The text that is used instead."""
        return text

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Under the other key."""
        self.inner.put(with_key(client_meta, self.rekey(client_meta.key)), kv_chunk_bytes)

    def contains(self, key: CacheEngineKey) -> bool:
        """Of the other key."""
        return self.inner.contains(self.rekey(key))

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """Of the other key."""
        return self.inner.get(self.rekey(key))

    def remove(self, key: CacheEngineKey) -> None:
        """Of the other key."""
        self.inner.remove(self.rekey(key))


@mutant("folds-nfc", "KEY-01")
class FoldsNFC(Rekeyed):
    """Normalises keys to NFC, as some file systems do."""

    def retext(self, text: str) -> str:
        """Composed."""
        return unicodedata.normalize("NFC", text)


@mutant("folds-case", "KEY-02")
class FoldsCase(Rekeyed):
    """Folds the case of keys."""

    def retext(self, text: str) -> str:
        """Lower case."""
        return text.casefold()


@mutant("slash-is-dash", "KEY-03")
class SlashIsDash(Rekeyed):
    """Writes a dash for a slash, to make a file name of a key."""

    def retext(self, text: str) -> str:
        """With dashes."""
        return text.replace("/", "-")


@mutant("pads-keys-with-blanks", "KEY-03")
class PadsKeys(Rekeyed):
    """Strips blanks from keys, as a fixed-width field does."""

    def retext(self, text: str) -> str:
        """Without blanks at its end."""
        return text.rstrip(" ") or text


@mutant("cuts-keys", "KEY-04")
class CutsKeys(Rekeyed):
    """Keeps the first 128 bytes of a key."""

    def retext(self, text: str) -> str:
        """Cut."""
        return text.encode("utf-8", "surrogatepass")[:128].decode("utf-8", "replace")


@mutant("cuts-keys-over-the-limit", "KEY-05", base="files")
class CutsOverLimit(Rekeyed):
    """Cuts a key that is over the limit, instead of refusing it."""

    def retext(self, text: str) -> str:
        """Cut to the limit."""
        limit = self.capabilities.max_key_bytes or 1 << 30
        return (
            text.encode("utf-8", "surrogatepass")[:limit].decode("utf-8", "ignore")
            if len(text.encode("utf-8", "replace")) > limit
            else text
        )


@mutant("matches-by-prefix", "KEY-06")
class MatchesByPrefix(Rekeyed):
    """Takes a key for a shorter one that it begins with."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._seen: list[str] = []

    def retext(self, text: str) -> str:
        """The shorter key, where there is one."""
        for other in self._seen:
            if other and text.startswith(other):
                return other
        self._seen.append(text)
        return text


@mutant("reprints-keys", "KEY-07")
class ReprintsKeys(Wrapper):
    """Lists keys parsed and printed again: leading zeros and letter case of hashes are lost."""

    def list_keys(self) -> List[CacheEngineKey]:
        """Printed again."""
        return [
            OpaqueKey(re.sub(r"@0*([0-9a-fA-F]+)@", lambda m: f"@{m[1].lower()}@", k.to_string()))
            for k in self.inner.list_keys()
        ]


@mutant("accepts-any-key", "KEY-08")
class AcceptsAnyKey(Rekeyed):
    """Makes some text of whatever it is given as a key."""

    def rekey(self, key: Any) -> Any:
        """Some text."""
        text = str(key.to_string()) if hasattr(key, "to_string") else repr(key)
        return OpaqueKey(text.encode("utf-8", "replace").decode() or "empty")


@mutant("knows-keys-by-identity", "KEY-09")
class KeysByIdentity(Rekeyed):
    """Tells keys of other libraries apart by object, not by text."""

    def rekey(self, key: Any) -> Any:
        """The text of its own keys, the identity of others'."""
        if isinstance(key, CacheEngineKey) or not hasattr(key, "to_string"):
            return key
        return OpaqueKey(f"object {id(key)}")


@mutant("encodes-keys-in-ascii", "KEY-10")
class KeysInAscii(Rekeyed):
    """Writes a question mark for letters that are not ASCII."""

    def retext(self, text: str) -> str:
        """In ASCII."""
        return text.encode("ascii", "replace").decode()


@mutant("hashes-keys-to-16-bits", "KEY-11")
class HashesKeys(Rekeyed):
    """Tells keys apart by 16 bits of a hash; lists the true texts."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._slots: dict[int, str] = {}

    def retext(self, text: str) -> str:
        """The first key that had this hash."""
        return self._slots.setdefault(zlib.crc32(text.encode("utf-8", "replace")) & 0xFFFF, text)


@mutant("wants-its-own-key-class", "KEY-09")
class WantsOwnKeys(Wrapper):
    """Refuses keys that are not of its own class."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Only under its own keys."""
        if not isinstance(client_meta.key, CacheEngineKey):
            raise InvalidKeyError(repr(client_meta.key), "is of another class.")
        self.inner.put(client_meta, kv_chunk_bytes)
