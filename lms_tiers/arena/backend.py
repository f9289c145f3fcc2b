"""What the backends over an arena have in common: the table's side of the contract. Copies are theirs."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, List

from lms_tiers.arena.arena import Arena
from lms_tiers.arena.chunk import Chunk
from lms_tiers.arena.copying import as_array, scattered
from lms_tiers.buffers import writable_bytes
from lms_tiers.changes import mending
from lms_tiers.errors import ConfigError, LmsTiersError, StorageUnavailableError, from_anywhere
from lms_tiers.interface import BackendStats, Capabilities, ChunkInfo, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, key_text

if TYPE_CHECKING:
    import torch

    from lms_tiers.arena.copying import Bytes

_log = logging.getLogger(__name__)

#: How often giving back what an interrupted call had is begun anew where it is interrupted itself.
_TRIES: Final = 100


class ArenaBackend(LMSBackendInterface):
    """Chunks in the pages of one arena; it never evicts, a tier around it does.

    A subclass copies bytes in (`put`, `put_tensor`) and out (`get`, `get_tensor`) and ends with `_close`.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(remove=True, tensors=True)

    def __init__(self, arena: Arena) -> None:
        self._arena: Final = arena
        self._failures = 0

    @property
    def name(self) -> str:
        """How errors and logs call it."""
        return self._arena.name

    def contains(self, key: CacheEngineKey) -> bool:
        """Whether the key is held."""
        return self._known(key) is not None

    def contains_prefix(self, keys: Sequence[CacheEngineKey]) -> int:
        """How many of the leading `keys` are held without a gap."""
        self._arena.check()
        for i, key in enumerate(keys):
            if self._known(key) is None:
                return i
        return len(keys)

    def list_keys(self) -> List[CacheEngineKey]:
        """Every key, in the order of the first put."""
        return [CacheEngineKey.from_string(chunk.key) for chunk in self._all()]

    @mending
    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        """Copy the chunk into the caller's buffer."""

        def target(length: int) -> list[Bytes]:
            writable = writable_bytes(buffer, length)
            return [as_array(writable)[:length]] if length else []

        return self._copied(key, target)

    @mending
    def get_scattered(
        self, key: CacheEngineKey, buffers: Sequence[Any], *, expected: ChunkMeta | None = None
    ) -> ChunkMeta | None:
        """Copy the chunk into the caller's buffers, piece by piece."""
        return self._copied(key, lambda length: scattered(buffers, length), expected)

    @mending
    def put_from(self, client_metas: Sequence[ClientMetaMessage], source: LMSBackendInterface) -> list[bool]:
        """Take chunks over from where they lie in the source, window by window."""
        self._arena.check()
        held: list[bool] = []
        while len(held) < len(client_metas):
            held += self._put_window(client_metas[len(held) :], source)
        return held

    def remove(self, key: CacheEngineKey) -> None:
        """Forget the key; its pages are free when its last reader has left."""
        self._arena.check()
        self._arena.remove(key_text(key))

    @property
    def usable_bytes(self) -> int:
        """The whole pages of the capacity."""
        return self._arena.usable_bytes

    def reserve_bytes(self, length: int) -> int:
        """The pages that `length` bytes take."""
        return self._arena.pages_of(length) * self._arena.page_bytes

    def stored_bytes(self, key: CacheEngineKey) -> int | None:
        """The pages that the chunk takes."""
        chunk = self._known(key)
        return None if chunk is None else chunk.pages * self._arena.page_bytes

    def scan(self) -> Iterator[ChunkInfo]:
        """Every chunk, in the order of the first put."""
        for chunk in self._all():
            key = CacheEngineKey.from_string(chunk.key)
            yield ChunkInfo(key, chunk.meta, chunk.pages * self._arena.page_bytes)

    def stats(self) -> BackendStats:
        """Pages in use now and at most, bytes copied, and how cut up the free pages are."""
        arena = self._arena
        arena.check()
        return BackendStats(
            keys=len(arena),
            bytes_used=arena.used_bytes,
            bytes_peak=arena.peak_bytes,
            bytes_written=arena.bytes_written,
            bytes_read=arena.bytes_read,
            failures=self._failures,
            detail={
                "capacity_bytes": arena.usable_bytes,
                "page_bytes": arena.page_bytes,
                "leaving_bytes": arena.leaving_bytes,
                "free_runs": arena.free_runs,
                **self._detail(),
            },
        )

    def close(self) -> None:
        """Forget everything. Running calls finish on memory that stays theirs; what `get` returned stays valid."""
        if self._arena.close() and not self._arena.forked:
            self._close()

    @abstractmethod
    def _scatter(self, wanted: Iterable[tuple[Chunk, list[Bytes]] | None]) -> list[ChunkMeta | None]:
        """Copy leased chunks into arrays of the host's; None for what is not wanted, or could not be copied."""

    @abstractmethod
    def _put_window(self, client_metas: Sequence[ClientMetaMessage], source: LMSBackendInterface) -> list[bool]:
        """`put_from` of as many as there is room for before the chunks they replace give theirs back."""

    def _copied(
        self, key: CacheEngineKey, targets: Callable[[int], list[Bytes]], expected: ChunkMeta | None = None
    ) -> ChunkMeta | None:
        """Copy one chunk, where it is `expected`, into what `targets` has for its length."""
        chunk = self._lease(key)
        if chunk is None:
            return None
        try:
            if expected not in (None, chunk.meta):
                return None
            return self._scatter([(chunk, targets(chunk.meta.length))])[0]
        finally:
            self._arena.release(chunk)

    def _detail(self) -> dict[str, float]:
        return {}

    def _close(self) -> None:
        """Give memory and threads back; called once."""

    def _store(self, client_meta: ClientMetaMessage, nbytes: int, fill: Callable[[Chunk], None]) -> None:
        """Reserve, let `fill` copy, publish; whatever goes wrong, the older chunk stays."""
        chunk = self._reserve(client_meta, nbytes)
        try:
            fill(chunk)
        except BaseException as error:
            self._arena.abandon(chunk)
            raise self._typed(error) from error
        self._arena.publish(chunk)

    def _reserve(self, client_meta: ClientMetaMessage, nbytes: int) -> Chunk:
        self._arena.check()
        key = key_text(client_meta.key)
        return self._arena.reserve(key, ChunkMeta.of(client_meta, nbytes))

    def _known(self, key: CacheEngineKey) -> Chunk | None:
        """The chunk of `key`, without a lease. `close` empties the table: what is missing then is no miss."""
        self._arena.check()
        chunk = self._arena.get(key_text(key))
        if chunk is None:
            self._arena.check()
        return chunk

    def _all(self) -> list[Chunk]:
        """Every chunk; as `_known`."""
        self._arena.check()
        chunks = self._arena.chunks()
        if not chunks:
            self._arena.check()
        return chunks

    def _lease(self, key: CacheEngineKey) -> Chunk | None:
        self._arena.check()
        return self._arena.lease(key_text(key))

    def _mend(self, error: BaseException) -> None:
        """Give back all pages that this thread's call had, where `error` may have ended it anywhere."""
        if not from_anywhere(error):
            return
        for _ in range(_TRIES):
            try:
                self._quiesce()
                self._arena.mend()
                return
            except BaseException as again:
                last = again
        _log.error("%s could not give back what an interrupted call had", self.name, exc_info=last)

    def _quiesce(self) -> None:
        """Wait until no copy that this thread asked for is at the arena's pages."""

    def _typed(self, error: BaseException) -> BaseException:
        """What the medium's own failure is to the caller: torch reports a sick device as a RuntimeError."""
        if isinstance(error, RuntimeError) and not isinstance(error, LmsTiersError):
            return StorageUnavailableError(self.name, str(error).partition("\n")[0])
        return error


def needed_capacity(name: str, capacity: int | None, page_bytes: int) -> int:
    """The capacity an arena is made with, or `ConfigError`."""
    if capacity is None:
        raise ConfigError(f"backend {name!r} takes all its memory at start and needs a capacity: add ?capacity=SIZE.")
    if capacity < page_bytes:
        raise ConfigError(f"backend {name!r}: a capacity of {capacity} bytes is less than a page of {page_bytes}.")
    return capacity


def checked_page_bytes(name: str, page_bytes: int) -> int:
    """A page size that keeps every tensor view aligned, or `ConfigError`."""
    if page_bytes < 4096 or page_bytes & (page_bytes - 1):
        raise ConfigError(f"backend {name!r}: page={page_bytes} must be a power of two of at least 4096 bytes.")
    return page_bytes


def shaped(flat: torch.Tensor, meta: ChunkMeta) -> torch.Tensor:
    """Flat bytes as the tensor a chunk says it is, over the same memory; the bytes where they do not make one."""
    dtype: Any = meta.memory_obj(b"").dtype
    if dtype is None or meta.length % dtype.itemsize:
        return flat
    tensor = flat.view(dtype)
    count = 1
    for size in meta.shape:
        count *= size
    return tensor.reshape(meta.shape) if tensor.numel() == count else tensor


def flat_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's bytes in C order, on its device, without a copy where they lie so."""
    import torch

    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8)
