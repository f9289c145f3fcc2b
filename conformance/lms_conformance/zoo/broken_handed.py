"""Mutants that spoil what a caller handed over, or hand out what is theirs, by other ways than `put` and `get`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lms_conformance.zoo.memory import EvictingReference, MemoryReference
from lms_conformance.zoo.mutant import Wrapper, mutant, text_of, with_data
from lms_tiers.errors import BackendClosedError
from lms_tiers.interface import ChunkView, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ClientMetaMessage, LMSMemoryObj, key_text

Item = tuple[ClientMetaMessage, bytearray]


@mutant("answers-its-own-bytes-in-batches", "ALI-09")
class OwnBytesInBatches(MemoryReference):
    """Answers a batch with the stored bytearrays themselves, to be written to."""

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """Its own."""
        self._check_open()
        found = [self._chunks.get(key_text(k)) for k in keys]
        return [None if f is None else f[1].memory_obj(f[0]) for f in found]


@mutant("hands-out-its-own-tensor", "ALI-09")
class OwnTensor(MemoryReference):
    """Answers a tensor over the stored bytes, to be written to."""

    def get_tensor(self, key: CacheEngineKey, out: Any = None) -> Any:
        """Its own."""
        import torch

        found = super().get_tensor(key, out)
        if found is None or out is not None or not found.numel():
            return found
        data = self._chunks[key_text(key)][0]
        return torch.frombuffer(data, dtype=torch.uint8).view(found.dtype).reshape(found.shape)


@mutant("wipes-batches-on-close", "ALI-09")
class WipesBatches(Wrapper):
    """Answers batches out of buffers of its own, and wipes them on close."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._lent: list[bytearray] = []

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """Out of its own."""
        answers: list[LMSMemoryObj | None] = []
        for obj in self.inner.get_many(keys):
            if obj is not None:
                self._lent = [*self._lent[-50:], bytearray(obj.data)]
                obj = with_data(obj, memoryview(self._lent[-1]).toreadonly())
            answers.append(obj)
        return answers

    def close(self) -> None:
        """And wipe."""
        self.inner.close()
        for buffer in self._lent:
            buffer[:] = bytes(len(buffer))


@mutant("wipes-what-it-was-handed", "ALI-10")
class WipesHanded(Wrapper):
    """Takes any buffer over, and wipes it once it is stored."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And wipe."""
        self.inner.put(client_meta, kv_chunk_bytes)
        data: Any = kv_chunk_bytes
        view = memoryview(data)
        if not view.readonly and view.contiguous and view.nbytes and not isinstance(data, bytearray):
            view.cast("B")[:] = bytes(view.nbytes)


@mutant("writes-into-the-callers-message", "ALI-10")
class WritesMessage(Wrapper):
    """Notes in the message of a put how long the chunk is on its medium."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And note."""
        self.inner.put(client_meta, kv_chunk_bytes)
        client_meta.length += 8


@mutant("leaves-the-namespace-in-the-callers-message", "ALI-10")
class RenamesKey(Wrapper):
    """Writes the key, as it stores it, into the message of a batch's put."""

    def put_many(self, items: Sequence[Item]) -> None:
        """And leave the key."""
        self.inner.put_many(items)
        for message, _ in items:
            message.key = f"stored/{text_of(message.key)}"  # type: ignore[assignment]


@mutant("works-in-the-callers-tensor", "ALI-10")
class WorksInTensor(Wrapper):
    """Encodes a tensor in place before it stores it, and does not decode it again."""

    def put_tensor(self, client_meta: ClientMetaMessage, tensor: Any) -> None:
        """And leave it encoded."""
        self.inner.put_tensor(client_meta, tensor)
        if tensor.numel() and not tensor.is_floating_point() and not tensor.requires_grad:
            tensor.bitwise_not_()


@mutant("ignores-the-offset-of-a-tensor", "TEN-09")
class IgnoresOffset(Wrapper):
    """Stores the beginning of a tensor's memory where the tensor lies in one piece."""

    def put_tensor(self, client_meta: ClientMetaMessage, tensor: Any) -> None:
        """From the beginning."""
        import torch

        if tensor.is_contiguous() and tensor.numel() and client_meta.length == tensor.numel() * tensor.element_size():
            base = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())
            tensor = base[: tensor.numel()].reshape(tensor.shape)
        self.inner.put_tensor(client_meta, tensor)


@mutant("chokes-on-a-gradient", "TEN-09")
class ChokesOnGradient(Wrapper):
    """Goes through numpy, which takes no tensor that has a gradient."""

    def put_tensor(self, client_meta: ClientMetaMessage, tensor: Any) -> None:
        """Through numpy."""
        if tensor.requires_grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        self.inner.put_tensor(client_meta, tensor)


@mutant("waits-for-views-on-flush", "OPT-16")
class WaitsForViews(Wrapper):
    """Waits on flush, and before it sends a batch, until nothing is lent: for ever inside a view's own block."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        import threading

        self._idle = threading.Event()
        self._idle.set()
        self._lent = 0

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        """And count."""
        with self.inner.view(key) as view:
            self._lent += 1
            self._idle.clear()
            try:
                yield view
            finally:
                self._lent -= 1
                if not self._lent:
                    self._idle.set()

    def flush(self, timeout: float | None = None) -> None:
        """When nothing is lent."""
        self._idle.wait()
        self.inner.flush(timeout)


@mutant("reuses-memory-that-is-lent", "EVI-10", base="lru")
class ReusesLent(EvictingReference):
    """Lends chunks out of memory that is used again when they are evicted."""

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        """Its own memory."""
        text = key_text(key)
        with self._guard():
            if self._closed:
                raise BackendClosedError("mutant")
            found = self._chunks.get(text)
            if found is not None:
                self._chunks.move_to_end(text)
        yield None if found is None else ChunkView(found[1], [memoryview(found[0]).toreadonly()])

    def _make_room(self, key: str, size: int) -> None:
        before = dict(self._chunks)
        super()._make_room(key, size)
        for text, (data, _) in before.items():
            if text not in self._chunks:
                data[:] = bytes(len(data))
