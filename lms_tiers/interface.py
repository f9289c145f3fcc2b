"""The contract every backend keeps: LMCache's five methods, and working defaults for the rest.

Contract version 1.1. The prose is in docs/contract.md, the proof in the conformance kit (`lms-tiers conform`).
Nothing here knows tiers or policies; the hooks for them (`reserve_bytes` … `load_state`) have plain defaults. What a
backend says of itself and of its chunks is in capabilities.py, and is imported from here.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, List, Optional, Self

from lms_tiers.buffers import copy_bytes, room_for, scatter_bytes, tensor_bytes, writable_bytes
from lms_tiers.capabilities import (
    CONTRACT_VERSION,
    BackendStats,
    Capabilities,
    ChunkInFile,
    ChunkInfo,
    ChunkView,
)
from lms_tiers.errors import InvalidBufferError, UnsupportedError
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj

if TYPE_CHECKING:
    import torch

__all__ = [
    "CONTRACT_VERSION", "BackendStats", "Capabilities", "ChunkInFile", "ChunkInfo", "ChunkView", "LMSBackendInterface",
]  # fmt: skip


class LMSBackendInterface(abc.ABC):
    """A place that keeps KV chunks: implement the five abstract methods, declare the rest in `capabilities`.

    Identity of a key is ``key.to_string()``, compared byte for byte. `put` takes the bytearray over. What `get`
    returned never changes. After any error but `OutcomeUnknownError` the state is what it was. Every method may be
    called from any thread at any time; after `close` each raises `BackendClosedError`. Errors are those of
    `lms_tiers.errors`.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()

    @abc.abstractmethod
    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Store a chunk under ``client_meta.key``, replacing an older one whole.

        Parameters
        ----------
        client_meta : ClientMetaMessage
            This project's or LMCache's own; read by attribute.
        kv_chunk_bytes : bytearray
            Taken over: the caller does not touch it again. Other buffers are copied.

        Raises
        ------
        InvalidKeyError, InvalidChunkError, ValueTooLargeError, CapacityError, StorageUnavailableError,
        OutcomeUnknownError, BackendClosedError
        """

    @abc.abstractmethod
    def contains(self, key: CacheEngineKey) -> bool:
        """Whether `get` would answer a chunk now."""

    @abc.abstractmethod
    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """The newest chunk put under `key`, or None. A sick medium or a damaged chunk is None and a counter."""

    @abc.abstractmethod
    def list_keys(self) -> List[CacheEngineKey]:
        """Every key held at some moment during the call, each once."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give everything back. Idempotent; calls running beside it finish or raise `BackendClosedError`."""

    # -- optional, with working defaults -------------------------------------------------------------------------

    def remove(self, key: CacheEngineKey) -> None:
        """Forget `key`; an absent key is no error. Needs the capability `remove`."""
        raise UnsupportedError(type(self).__name__, "remove")

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """Forget all `keys`; absent ones are no error. After an error some are gone, the others as they were."""
        for key in keys:
            self.remove(key)

    def put_many(self, items: Sequence[tuple[ClientMetaMessage, bytearray]]) -> None:
        """Put in order. Where item i raises, the items before it are stored and it is not.

        Nor are those after it, unless the backend declares `batch_stops` False. After an `OutcomeUnknownError` each
        item may be stored, whole, or not.
        """
        for client_meta, data in items:
            self.put(client_meta, data)

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """The chunk or None for each key, in order; the order tells the prefix chain."""
        return [self.get(key) for key in keys]

    def contains_prefix(self, keys: Sequence[CacheEngineKey]) -> int:
        """How many of the leading `keys` are present without a gap."""
        for i, key in enumerate(keys):
            if not self.contains(key):
                return i
        return len(keys)

    def contains_many(self, keys: Sequence[CacheEngineKey]) -> list[bool]:
        """What `contains` would answer for each key, in order; a remote medium is asked once for all of them."""
        return [self.contains(key) for key in keys]

    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        """Read a chunk into the caller's writable buffer (at least `length` bytes) and answer its metadata, or None.

        Raises
        ------
        InvalidBufferError
            The buffer is read-only, not C-contiguous or too small; its contents are unchanged.
        """
        obj = self.get(key)
        if obj is None:
            return None
        target = writable_bytes(buffer, obj.length)
        copy_bytes(target[: obj.length], memoryview(obj.data).cast("B"))
        return ChunkMeta.of_obj(key, obj)

    @property
    def lends(self) -> bool:
        """Whether `view` spares a copy that `get` makes; where it does not, a server sends what `get` answers."""
        return type(self).view is not LMSBackendInterface.view

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        """Borrow a chunk's bytes without a copy where the medium can; valid inside the block only."""
        obj = self.get(key)
        if obj is None:
            yield None
        else:
            meta = ChunkMeta.of_obj(key, obj)
            yield ChunkView(meta, (memoryview(obj.data).cast("B"),) if obj.length else ())

    @property
    def files(self) -> bool:
        """Whether `in_file` answers for some chunks."""
        return type(self).in_file is not LMSBackendInterface.in_file

    @contextmanager
    def in_file(self, key: CacheEngineKey) -> Iterator[ChunkInFile | None]:
        """Where a chunk's bytes lie, for a server whose client checks them; None where `get` has to be asked.

        Within the block the bytes are not used for another chunk.
        """
        yield None

    def get_scattered(
        self, key: CacheEngineKey, buffers: Sequence[Any], *, expected: ChunkMeta | None = None
    ) -> ChunkMeta | None:
        """Read a chunk into writable buffers, one after the other (together at least `length` bytes); see `get_into`.

        Where it is not just as `expected`, it is None, and their contents are unchanged.

        Raises
        ------
        InvalidBufferError
            A buffer is read-only or not C-contiguous, or together they are too small; their contents are unchanged.
        """
        targets = [writable_bytes(buffer, 0) for buffer in buffers]
        with self.view(key) as view:
            if view is None or expected not in (None, view.meta):
                return None
            scatter_bytes(view.buffers, room_for(targets, view.meta.length))
            return view.meta

    def get_many_into(
        self, requests: Iterable[tuple[CacheEngineKey, Sequence[Any]]], *,
        expected: Sequence[ChunkMeta | None] | None = None, spoiled: set[int] | None = None,
    ) -> list[ChunkMeta | None]:  # fmt: skip
        """Read chunks, each into writable buffers of its own; what `put_from` asks of a source.

        Parameters
        ----------
        requests : iterable of (key, buffers)
            Taken one by one, each when the copies asked for before it are under way or done.
        expected : sequence of (ChunkMeta or None), optional
            What each chunk is to be, compared before anything is written. None: anything that its buffers can take.
        spoiled : set of int, optional
            Gets the numbers of requests that are answered None although their buffers may have been written to (of a
            chunk found damaged, for example); the buffers of all others that are None are unchanged.

        Returns
        -------
        list of (ChunkMeta or None)
            None for a key that is absent, and for a chunk that is not as expected or that its buffers cannot take.
        """
        found: list[ChunkMeta | None] = []
        unsure = spoiled is not None and type(self).get_scattered is not LMSBackendInterface.get_scattered
        for key, buffers in requests:
            want = None if expected is None else expected[len(found)]
            try:
                # Backends written before there was `expected` are not told of it where nothing is.
                meta = self.get_scattered(key, buffers, **({} if want is None else {"expected": want}))
                if meta is None and unsure:
                    spoiled.add(len(found))  # type: ignore[union-attr]  # see `unsure`
            except InvalidBufferError:
                meta = None
            found.append(meta)
        return found

    def put_from(self, client_metas: Sequence[ClientMetaMessage], source: LMSBackendInterface) -> list[bool]:
        """Copy chunks out of another backend, the shortest way both offer; a tier moves chunks by this.

        Returns
        -------
        list of bool
            Which of them `source` held just as `client_metas` says; the others are not stored, and what was here
            under their keys stays. Where item i raises, see `put_many`.
        """
        held: list[bool] = []
        items: list[tuple[ClientMetaMessage, bytearray]] = []
        for client_meta in client_metas:
            with source.view(client_meta.key) as view:
                held.append(view is not None and view.meta == ChunkMeta.of(client_meta, client_meta.length))
                if view is not None and held[-1]:
                    items.append((client_meta, bytearray().join(view.buffers)))
        if items:
            self.put_many(items)
        return held

    def get_tensor(self, key: CacheEngineKey, out: torch.Tensor | None = None) -> torch.Tensor | None:
        """The chunk as a tensor of its dtype and shape (uint8 of `length` where it has none), or None.

        Parameters
        ----------
        out : torch.Tensor, optional
            Contiguous, of at least as many bytes; the chunk is copied into it and it is returned.

        Raises
        ------
        InvalidBufferError
            `out` does not fit.
        """
        obj = self.get(key)
        if obj is None:
            return None
        import torch

        # A copy: torch has no read-only tensors, and what `get` returned must not be written through one.
        flat = torch.frombuffer(bytearray(obj.data) or bytearray(1), dtype=torch.uint8)[: obj.length]
        if out is not None:
            tensor_bytes(out, obj.length)[: obj.length].copy_(flat)
            return out
        if obj.dtype is None:
            return flat
        tensor = flat.view(obj.dtype)
        return tensor.reshape(obj.shape) if tensor.numel() == obj.shape.numel() else tensor

    def put_tensor(self, client_meta: ClientMetaMessage, tensor: torch.Tensor) -> None:
        """Store a tensor's bytes in C order; the tensor stays the caller's."""
        import torch

        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu()
        self.put(client_meta, bytearray(flat.numpy().tobytes()))

    def stats(self) -> BackendStats:
        """Counters since open."""
        return BackendStats(keys=len(self.list_keys()))

    def flush(self, timeout: float | None = None) -> None:
        """Return when what was put before is as durable as the backend promises.

        Raises
        ------
        DeadlineExceededError
            Not within `timeout` seconds.
        """

    def within(self, seconds: float) -> AbstractContextManager[None] | None:
        """A block in which the calls of this thread keep a deadline by themselves, if they can: of a shared medium.

        Inside it a call ends within `seconds`, or raises `DeadlineExceededError`; and a read that the medium fails
        raises what a write would, where it is a miss otherwise. None: not now, or never. Then whoever wants to wait no
        longer calls in a thread of its own.
        """
        return None

    # -- what a tier asks of its backend ---------------------------------------------------------------------------

    @property
    def usable_bytes(self) -> int | None:
        """How many reserved bytes fit into the capacity it was opened with; None: all of it."""
        return None

    def reserve_bytes(self, length: int) -> int:
        """Upper bound of the physical bytes that a chunk of `length` bytes will take."""
        return length

    def stored_bytes(self, key: CacheEngineKey) -> int | None:
        """Physical bytes the chunk takes, at most `reserve_bytes`; None: unknown. In memory, no I/O."""
        return None

    def shrunk(self) -> dict[str, int]:
        """Key texts of chunks that the backend itself made smaller since the last call, and what each takes now.

        Called with a lock held: in memory, no I/O, no waiting. A chunk that is overwritten or removed is forgotten here
        before that call returns.
        """
        return {}

    def scan(self) -> Iterator[ChunkInfo]:
        """Every chunk, least recently used first where the backend remembers; a tier starts warm from it."""
        for key in self.list_keys():
            obj = self.get(key)
            if obj is not None:
                meta = ChunkMeta.of_obj(key, obj)
                yield ChunkInfo(key, meta, self.reserve_bytes(obj.length))

    def touch(self, keys: Sequence[CacheEngineKey]) -> None:
        """Note that `keys` were used, oldest first, so that `scan` after a restart knows; absent keys are ignored."""

    def save_state(self, state: bytes) -> None:
        """Keep a tier's small state (its policy's memory) beside the chunks, where persistent."""

    def load_state(self) -> bytes | None:
        """What `save_state` kept last, or None."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
