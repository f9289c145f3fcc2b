"""An L2 adapter as LMCache's loops call it: hand in, wait for the descriptor, take the result, once.

Objects are numbers: object `n` of `nbytes` holds `content(n, nbytes)`.
"""

from __future__ import annotations

import select
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch

from lms_conformance import gauges
from lms_conformance.adapters.driven import CANARY, Driven, content, told
from lms_conformance.violation import expect, violate

#: Bytes around an object that nobody may write, and what an object holds before a load.
GUARD: Final = 64
EMPTY: Final = 0x5A

Groups = Sequence[tuple[tuple[int, ...], torch.dtype]]

#: What objects are made of: groups of shape and dtype. Several groups in one object are a hybrid model's.
KINDS: Final[Mapping[str, Groups]] = {
    "one": [((2, 2, 16, 32), torch.bfloat16)],
    "other dtype": [((2, 2, 16, 32), torch.float16)],
    "other shape": [((2, 2, 32, 16), torch.bfloat16)],
    "longer": [((2, 2, 17, 32), torch.bfloat16)],
    "shorter": [((2, 2, 15, 32), torch.bfloat16)],
    "hybrid": [((2, 2, 16, 32), torch.bfloat16), ((1, 3, 40), torch.float32), ((1, 3, 80), torch.bfloat16)],
    "wide": [((2, 2, 256, 512), torch.bfloat16)],
}


def key(number: int, *, model: str = "llama/8b", rank: int = 0x01000100, group: int = 0, salt: str = "") -> Any:
    """The key of an object."""
    from lmcache.v1.distributed.api import ObjectKey

    return ObjectKey(
        chunk_hash=number.to_bytes(16, "big"), model_name=model, kv_rank=rank, object_group_id=group, cache_salt=salt
    )


class Slot:
    """A memory object of LMCache's with guards around it."""

    def __init__(self, kind: str = "one") -> None:
        from lmcache.v1.memory_management import MemoryFormat, MemoryObjMetadata, TensorMemoryObj

        shapes = [torch.Size(shape) for shape, _ in KINDS[kind]]
        dtypes = [dtype for _, dtype in KINDS[kind]]
        self.nbytes = sum(shape.numel() * dtype.itemsize for shape, dtype in zip(shapes, dtypes, strict=True))
        self.memory = torch.full((self.nbytes + 2 * GUARD,), CANARY, dtype=torch.uint8)
        self.data = self.memory[GUARD : GUARD + self.nbytes]
        self.data.fill_(EMPTY)
        several = {"shapes": shapes, "dtypes": dtypes} if len(shapes) > 1 else {}
        metadata = MemoryObjMetadata(
            shape=shapes[0], dtype=dtypes[0], address=0, phy_size=self.nbytes, ref_count=1, fmt=MemoryFormat.KV_2LTD,
            **several,
        )  # fmt: skip
        self.obj = TensorMemoryObj(self.data, metadata, parent_allocator=None)

    def filled(self, number: int) -> Slot:
        """With an object's bytes."""
        self.data.copy_(torch.frombuffer(bytearray(content(number, self.nbytes)), dtype=torch.uint8))
        return self

    def state(self, number: int, hit: bool) -> str:
        """``"whole"``, ``"wrong"``, ``"miss"``, ``"spoilt"`` (a miss that was written) or ``"beside"`` (a guard)."""
        guards = torch.cat([self.memory[:GUARD], self.memory[GUARD + self.nbytes :]])
        if not bool((guards == CANARY).all()):
            return "beside"
        if hit:
            return "whole" if self.data.numpy().tobytes() == content(number, self.nbytes) else "wrong"
        return "miss" if bool((self.data == EMPTY).all()) else "spoilt"


class Listener:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.sizes: dict[Any, int] = {}
        self.accessed: list[Any] = []
        self.wrong: list[str] = []

    def on_l2_keys_stored(self, keys: Sequence[Any], sizes: Sequence[int]) -> None:
        """Objects came."""
        for one, size in zip(keys, sizes, strict=True):
            if one in self.sizes:
                self.wrong.append(f"{one} was told to be stored twice")
            self.sizes[one] = size

    def on_l2_keys_accessed(self, keys: Sequence[Any]) -> None:
        """Objects were used."""
        self.accessed += keys

    def on_l2_keys_deleted(self, keys: Sequence[Any]) -> None:
        """Objects went."""
        for one in keys:
            if self.sizes.pop(one, None) is None:
                self.wrong.append(f"{one} was told to be deleted and had not been stored")


class Drive(Driven):
    """One adapter.

    Parameters
    ----------
    adapter : L2AdapterInterface
    """

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter
        self.listener = Listener()
        self._stores: dict[int, Any] = {}

    @told
    def listen(self) -> None:
        """Keep what the adapter tells from here on."""
        self.adapter.register_listener(self.listener)

    # -- results -----------------------------------------------------------------------------------------------------

    def wait(self, fd: int, what: str) -> None:
        """Until a descriptor tells of results."""
        from lmcache.v1.platform import consume_fd

        poller = select.poll()
        poller.register(fd, select.POLLIN)
        if not poller.poll(1000 * self.patience * gauges.busy()):
            violate(f"the result of a {what} to be told of within {self.patience:g} s", "silence")
        consume_fd(fd)

    def stored(self, task: int) -> Any:
        """The result of a store."""
        while task not in self._stores:
            self.wait(self.adapter.get_store_event_fd(), "store")
            popped = self.adapter.pop_completed_store_tasks()
            twice = popped.keys() & self._stores.keys()
            expect(not twice, "the result of a store to be given once", f"tasks {sorted(twice)} came again")
            self._stores.update(popped)
        return self._stores[task]

    def _result(self, task: int, query: str, fd: int, count: int) -> list[bool]:
        ask = getattr(self.adapter, query)
        while (bits := ask(task)) is None:  # one signal may have told of several results
            self.wait(fd, query)
        expect(ask(task) is None, f"{query} to give a result once", "it gave it again")
        return [bool(bits.test(i)) for i in range(count)]

    def looked(self, task: int, count: int) -> list[bool]:
        """The result of a look-up."""
        fd = self.adapter.get_lookup_and_lock_event_fd()
        return self._result(task, "query_lookup_and_lock_result", fd, count)

    def loaded(self, task: int, count: int) -> list[bool]:
        """The result of a load."""
        return self._result(task, "query_load_result", self.adapter.get_load_event_fd(), count)

    # -- whole calls -------------------------------------------------------------------------------------------------

    @told
    def store(self, numbers: Sequence[int], kind: str = "one", **fields: Any) -> bool:
        """Store objects; whether all are held."""
        slots = [Slot(kind).filled(n) for n in numbers]
        task = self.adapter.submit_store_task([key(n, **fields) for n in numbers], [slot.obj for slot in slots])
        good = bool(self.stored(task).is_successful())
        changed = [n for n, slot in zip(numbers, slots, strict=True) if slot.state(n, True) != "whole"]
        expect(not changed, "a store to leave the memory that it reads as it was", f"objects {changed} were changed")
        return good

    @told
    def look(self, numbers: Sequence[int], kind: str = "one", **fields: Any) -> list[bool]:
        """Look objects up and lock them."""
        from lmcache.v1.distributed.api import MemoryLayoutDesc

        shapes = [torch.Size(shape) for shape, _ in KINDS[kind]]
        layouts = {int(fields.get("group", 0)): MemoryLayoutDesc(shapes, [dtype for _, dtype in KINDS[kind]])}
        task = self.adapter.submit_lookup_and_lock_task([key(n, **fields) for n in numbers], layouts)
        return self.looked(task, len(numbers))

    @told
    def unlock(self, numbers: Sequence[int], **fields: Any) -> None:
        """Unlock objects."""
        self.adapter.submit_unlock([key(n, **fields) for n in numbers])

    @told
    def load(self, numbers: Sequence[int], kind: str = "one", **fields: Any) -> list[str]:
        """Load objects into memory of their own; see `Slot.state`."""
        slots = [Slot(kind) for _ in numbers]
        task = self.adapter.submit_load_task([key(n, **fields) for n in numbers], [slot.obj for slot in slots])
        bits = self.loaded(task, len(numbers))
        return [slot.state(n, bit) for n, bit, slot in zip(numbers, bits, slots, strict=True)]

    @told
    def use(self, numbers: Sequence[int], kind: str = "one", **fields: Any) -> list[str]:
        """Look up, load what is there, unlock; ``"absent"`` where the look-up said so."""
        there = self.look.__wrapped__(self, numbers, kind, **fields)  # type: ignore[attr-defined]
        found = [n for n, good in zip(numbers, there, strict=True) if good]
        states = dict(zip(found, self.load.__wrapped__(self, found, kind, **fields), strict=True))  # type: ignore[attr-defined]
        self.adapter.submit_unlock([key(n, **fields) for n in found])
        return [states.get(n, "absent") for n in numbers]

    @told
    def delete(self, numbers: Sequence[int], **fields: Any) -> None:
        """Delete objects."""
        self.adapter.delete([key(n, **fields) for n in numbers])

    @told
    def listed(self, page_size: int = 500, model: str | None = None) -> list[tuple[int, int]]:
        """Every key that is listed, page by page, as (number, size), in order."""
        token, found = None, []
        while True:
            page = self.adapter.list_l2_keys(model_name=model, page_size=page_size, cursor=token)
            found += [(int(entry.key.chunk_hash_hex, 16), entry.size_bytes) for entry in page.entries]
            token = page.next_page_token
            if token is None:
                return sorted(found)

    @told
    def used(self) -> int:
        """Bytes that it says to hold."""
        return int(self.adapter.get_usage().total_bytes_used)

    def close(self) -> None:
        """End it."""
        self.adapter.close()
