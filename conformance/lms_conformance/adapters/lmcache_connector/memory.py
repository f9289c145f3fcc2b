"""LMCache's memory for a connector: its own backend and allocator, over memory that can be looked at. Needs LMCache."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from lmcache.v1.memory_allocators.tensor_memory_allocator import TensorMemoryAllocator
from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend

from lms_conformance.adapters.driven import CANARY


class Arena(TensorMemoryAllocator):  # type: ignore[misc]  # LMCache is not there when types are checked
    """An allocator that keeps what it lent: nothing is given back by being forgotten. It counts what came twice."""

    def __init__(self, nbytes: int) -> None:
        super().__init__(torch.full((nbytes,), CANARY, dtype=torch.uint8))
        self._lock = threading.RLock()  # the allocators that LMCache takes in earnest have one
        self.lent: list[Any] = []
        self.twice = 0

    def allocate(self, *given: Any, **named: Any) -> Any:
        """See LMCache."""
        with self._lock:
            obj = super().allocate(*given, **named)
            if obj is not None:
                self.lent.append(obj)
            return obj

    def batched_allocate(self, *given: Any, **named: Any) -> Any:
        """See LMCache."""
        with self._lock:
            found = super().batched_allocate(*given, **named)
            self.lent += found or ()
            return found

    def free(self, memory_obj: Any, allocator_type: str | None = None) -> None:
        """See LMCache."""
        with self._lock:
            self.twice += not memory_obj.is_valid()
            super().free(memory_obj, allocator_type)

    def batched_free(self, memory_objs: list[Any], *given: Any, **named: Any) -> None:
        """See LMCache."""
        with self._lock:
            self.twice += sum(not obj.is_valid() for obj in memory_objs)
            super().batched_free(memory_objs, *given, **named)


class Memory(LocalCPUBackend):  # type: ignore[misc]
    """LMCache's local backend, of which a connector takes the memory for what it gets.

    Attributes
    ----------
    empty : bool
        No memory can be had.
    watcher : callable
        Called where it takes some, in its thread.
    """

    def __init__(self, config: Any, metadata: Any, nbytes: int) -> None:
        super().__init__(config, metadata, dst_device="cpu", memory_allocator=Arena(nbytes))
        self.empty = False
        self.watcher: Callable[[], None] = lambda: None

    @property
    def arena(self) -> Arena:
        """Its allocator."""
        arena: Arena = self.memory_allocator
        return arena

    def allocate(self, *given: Any, **named: Any) -> Any:
        """See LMCache."""
        return self._taken(None if self.empty else super().allocate(*given, **named))

    def batched_allocate(self, *given: Any, **named: Any) -> Any:
        """See LMCache."""
        return self._taken(None if self.empty else super().batched_allocate(*given, **named))

    def _taken(self, found: Any) -> Any:
        if found is not None:
            self.watcher()
        return found

    def own(self, shapes: list[torch.Size], dtypes: list[torch.dtype], fmt: Any) -> Any:
        """Memory for what LMCache itself puts there."""
        return self.arena.allocate(shapes, dtypes, fmt)

    def wipe(self) -> None:
        """Where nothing is in use: no byte of a chunk is left from before."""
        self.arena.buffer.fill_(CANARY)

    def in_use(self) -> int:
        """Objects that somebody has references to."""
        return sum(obj.is_valid() for obj in list(self.arena.lent))
