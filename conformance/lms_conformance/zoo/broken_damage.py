"""Mutants that damage confuses, and that refuse wrong: in batches, by other ways, from many threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

from lms_conformance.zoo.files import FileReference, decode, file_of
from lms_conformance.zoo.mutant import Wrapper, mutant, text_of
from lms_tiers.errors import InvalidKeyError, LmsTiersError, ValueTooLargeError
from lms_tiers.interface import BackendStats, ChunkView, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, key_text

Item = tuple[ClientMetaMessage, bytearray]


class _LooksWhenRead(FileReference):
    """Looks at checksums when a chunk is read, and not when the place is opened."""

    def _load(self) -> None:
        self._opening = True
        super()._load()
        self._opening = False

    def _decode(self, file: Path) -> tuple[str, ChunkMeta, memoryview] | None:
        return decode(file.read_bytes(), verify=not self._opening)


@mutant("does-not-verify-in-batches", "CRA-09", base="files")
class NoVerifyInBatches(_LooksWhenRead):
    """Answers batches with what the files hold, checksum or not."""

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """Unverified."""
        return [_unverified(self, key) for key in keys]


@mutant("does-not-verify-what-it-lends", "CRA-09", base="files")
class NoVerifyLent(_LooksWhenRead):
    """Lends what the file holds, checksum or not."""

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        """Unverified."""
        found = _unverified(self, key)
        with super().view(key) as view:
            if view is not None or found is None:
                yield view
            else:
                yield ChunkView(ChunkMeta.of_obj(key, found), [memoryview(found.data)])


def _unverified(backend: FileReference, key: CacheEngineKey) -> LMSMemoryObj | None:
    if not backend.contains(key):
        return None
    found = decode(file_of(backend.path, key_text(key)).read_bytes(), verify=False)
    return None if found is None else found[1].memory_obj(memoryview(bytes(found[2])))


@mutant("takes-damage-for-good", "CRA-09", base="files")
class DamageForGood(_LooksWhenRead):
    """Answers a key no more once its chunk was found damaged, whatever is put under it since."""

    def __init__(self, path: str, capacity: int | None = None) -> None:
        super().__init__(path, capacity)
        self._bad: set[str] = set()

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """Unless it was damaged."""
        held = self.contains(key)
        found = super().get(key)
        if held and found is None:
            self._bad.add(text_of(key))
        return None if text_of(key) in self._bad else found


@mutant("does-not-count-damage", "CRA-09", base="files")
class UncountedDamage(FileReference):
    """Answers damaged chunks as misses like any other."""

    def stats(self) -> BackendStats:
        """Of nothing bad."""
        return replace(super().stats(), corrupt=0, failures=0)


# -- refusals --------------------------------------------------------------------------------------------------------


@mutant("skips-what-is-too-large-in-a-batch", "BAT-09")
class SkipsTooLarge(Wrapper):
    """Leaves the items of a batch out that are over its limit, and says nothing."""

    def put_many(self, items: Sequence[Item]) -> None:
        """Those that it takes."""
        for message, data in items:
            try:
                self.inner.put(message, data)
            except ValueTooLargeError:
                continue


@mutant("refuses-a-whole-batch-for-one-key", "BAT-09")
class RefusesWhole(Wrapper):
    """Looks at all keys of a batch first, and stores nothing where one is none."""

    def put_many(self, items: Sequence[Item]) -> None:
        """All or nothing."""
        for message, _ in items:
            if not text_of(message.key):
                raise InvalidKeyError(repr(message.key), "it is empty")
        self.inner.put_many(items)


@mutant("skips-keys-that-are-none-in-a-batch", "BAT-09")
class SkipsBadKeys(Wrapper):
    """Stores the items of a batch behind one whose key is none, and raises then."""

    def put_many(self, items: Sequence[Item]) -> None:
        """Those that can be."""
        failed: LmsTiersError | None = None
        for message, data in items:
            try:
                self.inner.put(message, data)
            except InvalidKeyError as error:
                failed = error
        if failed is not None:
            raise failed


@mutant("cuts-large-tensors", "OPT-11")
class CutsTensors(Wrapper):
    """Takes a tensor over its limit in silence, and stores nothing of it."""

    def put_tensor(self, client_meta: ClientMetaMessage, tensor: Any) -> None:
        """What it takes."""
        try:
            self.inner.put_tensor(client_meta, tensor)
        except ValueTooLargeError:
            return


# -- threads ---------------------------------------------------------------------------------------------------------


@mutant("counts-keys-in-two-steps", "CON-10")
class CountsTwoSteps(Wrapper):
    """Counts its keys in plain Python: two threads that put at one time count one."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._count = 0

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And count."""
        new = not self.inner.contains(client_meta.key)
        self.inner.put(client_meta, kv_chunk_bytes)
        count = self._count
        self._count = count + new

    def remove(self, key: CacheEngineKey) -> None:
        """And count down."""
        held = self.inner.contains(key)
        self.inner.remove(key)
        count = self._count
        self._count = count - held

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """Each so."""
        for key in keys:
            self.remove(key)

    def put_many(self, items: Sequence[Item]) -> None:
        """Each so."""
        for message, data in items:
            self.put(message, data)

    def put_tensor(self, client_meta: ClientMetaMessage, tensor: Any) -> None:
        """So, too."""
        new = not self.inner.contains(client_meta.key)
        self.inner.put_tensor(client_meta, tensor)
        self._count += new

    def stats(self) -> BackendStats:
        """As counted."""
        found = self.inner.stats()
        return found if found.keys is None else replace(found, keys=self._count)


@mutant("reads-tensors-in-two-steps", "CON-08")
class TensorsTwoSteps(Wrapper):
    """Copies the first bytes of a chunk into `out`, looks the chunk up again, and copies the rest."""

    def get_tensor(self, key: CacheEngineKey, out: Any = None) -> Any:
        """Of two chunks."""
        if out is None:
            return self.inner.get_tensor(key)
        first = self.inner.get_tensor(key, out)
        if first is None:
            return None
        obj = self.inner.get(key)
        if obj is not None and obj.length > 8 and out.numel() * out.element_size() >= obj.length:
            import torch

            flat = out.reshape(-1).view(torch.uint8)
            flat[8 : obj.length] = torch.frombuffer(bytearray(obj.data), dtype=torch.uint8)[8:]
        return out
