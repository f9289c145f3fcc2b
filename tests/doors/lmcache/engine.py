"""LMCache's side of the door: keys and memory as it makes them, and calls as its loops make them."""

from __future__ import annotations

import importlib
import select
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lms_conformance.adapters.driven import CANARY
from lms_conformance.adapters.lmcache_l2.drive import EMPTY, GUARD, Listener, key


def of(module: str, name: str) -> Any:
    """Something of LMCache's (or of its double's)."""
    return getattr(importlib.import_module(f"lmcache.{module}"), name)


def layout(shapes: Sequence[Sequence[int]], dtypes: Sequence[torch.dtype]) -> Any:
    return of("v1.distributed.api", "MemoryLayoutDesc")([torch.Size(s) for s in shapes], list(dtypes))


def pattern(i: int, nbytes: int) -> torch.Tensor:
    """Bytes that belong to chunk `i` only."""
    return torch.randint(0, 256, (nbytes,), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))


class Slot:
    """A memory object with guards around it."""

    def __init__(
        self, shapes: Sequence[Sequence[int]] = ((2, 2, 16, 32),), dtypes: Sequence[Any] = (torch.bfloat16,)
    ) -> None:
        sizes = [torch.Size(shape) for shape in shapes]
        self.nbytes = sum(size.numel() * dtype.itemsize for size, dtype in zip(sizes, dtypes, strict=True))
        self.memory = torch.full((self.nbytes + 2 * GUARD,), CANARY, dtype=torch.uint8)
        self.data = self.memory[GUARD : GUARD + self.nbytes]
        self.data.fill_(EMPTY)
        several = {"shapes": sizes, "dtypes": list(dtypes)} if len(sizes) > 1 else {}
        metadata = of("v1.memory_management", "MemoryObjMetadata")(
            shape=sizes[0], dtype=dtypes[0], address=0, phy_size=self.nbytes, ref_count=1,
            fmt=of("v1.memory_management", "MemoryFormat").KV_2LTD, **several,
        )  # fmt: skip
        self.obj = of("v1.memory_management", "TensorMemoryObj")(self.data, metadata, parent_allocator=None)

    def filled(self, i: int) -> Slot:
        self.data.copy_(pattern(i, self.nbytes))
        return self

    def holds(self, i: int) -> bool:
        return bool(torch.equal(self.data, pattern(i, self.nbytes))) and self.guarded

    @property
    def guarded(self) -> bool:
        return bool((self.memory[:GUARD] == CANARY).all() and (self.memory[GUARD + self.nbytes :] == CANARY).all())

    @property
    def untouched(self) -> bool:
        return bool((self.data == EMPTY).all()) and self.guarded


class Loops:
    """Calls of an adapter as LMCache's loops make them: hand in, wait for the descriptor, take the result, once."""

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter
        self.results: dict[int, Any] = {}

    def wait(self, fd: int) -> None:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        assert poller.poll(120_000), "nobody was told of the result"
        of("v1.platform", "consume_fd")(fd)

    def stored(self, task: int) -> Any:
        while task not in self.results:
            self.wait(self.adapter.get_store_event_fd())
            popped = self.adapter.pop_completed_store_tasks()
            assert not popped.keys() & self.results.keys(), "a result is given once"
            self.results |= popped
        return self.results[task]

    def store(self, keys: Sequence[Any], slots: Sequence[Slot]) -> Any:
        return self.stored(self.adapter.submit_store_task(list(keys), [slot.obj for slot in slots]))

    def put(self, numbers: Sequence[int], **fields: Any) -> Any:
        """Store chunks of these numbers under their keys."""
        return self.store([key(i, **fields) for i in numbers], [Slot().filled(i) for i in numbers])

    def lookup(self, keys: Sequence[Any], layouts: dict[int, Any] | None = None) -> list[bool]:
        task = self.adapter.submit_lookup_and_lock_task(list(keys), layouts or {})
        while (bits := self.adapter.query_lookup_and_lock_result(task)) is None:
            self.wait(self.adapter.get_lookup_and_lock_event_fd())
        assert self.adapter.query_lookup_and_lock_result(task) is None, "a result is given once"
        return [bits.test(i) for i in range(len(keys))]

    def loaded(self, task: int, count: int) -> list[bool]:
        # One signal may have told of several results.
        while (bits := self.adapter.query_load_result(task)) is None:
            self.wait(self.adapter.get_load_event_fd())
        assert self.adapter.query_load_result(task) is None, "a result is given once"
        return [bits.test(i) for i in range(count)]

    def load(self, keys: Sequence[Any], slots: Sequence[Slot]) -> list[bool]:
        return self.loaded(self.adapter.submit_load_task(list(keys), [slot.obj for slot in slots]), len(keys))

    def get(self, numbers: Sequence[int], **fields: Any) -> list[bool | None]:
        """Load chunks of these numbers: whether each came as it was; None for a miss, whose slot is untouched."""
        slots = [Slot() for _ in numbers]
        bits = self.load([key(i, **fields) for i in numbers], slots)
        return [
            slot.holds(i) if bit else (None if slot.untouched else False)
            for i, bit, slot in zip(numbers, bits, slots, strict=True)
        ]

    def listed(self, **given: Any) -> Iterator[tuple[str, int]]:
        """Every key that is listed, page by page, as (hash, size)."""
        token = None
        while True:
            page = self.adapter.list_l2_keys(cursor=token, **given)
            yield from ((entry.key.chunk_hash_hex, entry.size_bytes) for entry in page.entries)
            token = page.next_page_token
            if token is None:
                return


__all__ = ["Listener", "Loops", "Slot", "key", "layout", "of", "pattern"]
