"""A connector as LMCache's `RemoteBackend` calls it: coroutines on its loop, and plain calls from any thread.

Chunks are numbers: chunk `n` in `version` holds `Layout.content(n, tokens, version)`.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Sequence
from typing import Any, Final

import torch

from lms_conformance import gauges
from lms_conformance.adapters.driven import Driven, told
from lms_conformance.adapters.lmcache_connector.layouts import Layout, key
from lms_conformance.adapters.lmcache_connector.loop import Call, Loop, Make
from lms_conformance.adapters.trial import NotApplicable
from lms_conformance.violation import Violation, expect

#: What is done already but for a few steps of a thread has this part of the patience with an answer.
SOON: Final = 5


class Drive(Driven):
    """One connector.

    Parameters
    ----------
    connection : InstrumentedRemoteConnector
        As `CreateConnector` made it.
    loop : Loop
    memory : Memory
    layout : Layout
    """

    def __init__(self, connection: Any, loop: Loop, memory: Any, layout: Layout) -> None:
        self.connection = connection
        self.loop = loop
        self.memory = memory
        self.layout = layout
        self.ended = False

    def begin(self, make: Make, told: list[Call] | None = None, cancel: bool = False) -> Call:
        """Begin a call of the connection; see `Loop.begin`."""
        return self.loop.begin(make, told, cancel)

    def run(self, make: Make, what: str) -> Any:
        """Make a call of the connection."""
        return self.begin(make).wait(what)

    # -- memory ------------------------------------------------------------------------------------------------------

    def own(self, number: int, tokens: int | None = None, version: int = 0) -> Any:
        """A chunk in memory of LMCache's, which has one reference."""
        tokens = tokens or self.layout.tokens
        obj = self.memory.own(self.layout.shapes(tokens), self.layout.dtypes, self.layout.format)
        self.fill(obj, self.layout.content(number, tokens, version))
        return obj

    @staticmethod
    def fill(obj: Any, data: bytes) -> None:
        """Other bytes into memory."""
        torch.frombuffer(obj.byte_array, dtype=torch.uint8).copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))

    def state(self, obj: Any, number: int, tokens: int | None = None, version: int = 0) -> str:
        """``"whole"``, ``"misshapen"`` (the right bytes as something else), ``"wrong"`` or ``"miss"``."""
        if obj is None:
            return "miss"
        tokens, layout = tokens or self.layout.tokens, self.layout
        if bytes(obj.byte_array) != layout.content(number, tokens, version):
            return "wrong"
        seen = list(obj.get_shapes()), list(obj.get_dtypes()), obj.get_memory_format(), obj.get_shape()
        shapes = layout.shapes(tokens)
        return "whole" if seen == (shapes, layout.dtypes, layout.format, shapes[0]) else "misshapen"

    def returned(self, why: str, held: int = 0) -> None:
        """All memory but `held` objects is given back, each reference once."""
        began = time.monotonic()
        while (used := self.memory.in_use()) > held:
            late = time.monotonic() - began > self.patience / SOON * gauges.busy()
            expect(not late, f"every reference to LMCache's memory to be given back {why}", f"{used - held} are kept")
            time.sleep(0.002)
        once = used == held and not self.memory.arena.twice
        expect(once, f"every reference to LMCache's memory to be given back once {why}", "one was given back twice")

    # -- calls -------------------------------------------------------------------------------------------------------

    def putting(self, key: Any, obj: Any) -> Make:
        """A put; LMCache's `serde` takes a reference for it, which the connection gives back."""

        async def put() -> None:
            obj.ref_count_up()
            await self.connection.put(key, obj)

        return put

    @told
    def put(self, number: int, tokens: int | None = None, version: int = 0, **fields: Any) -> bool:
        """Put a chunk; False where the connector raises, which LMCache counts as a put that failed."""
        obj = self.own(number, tokens, version)
        try:
            self.run(self.putting(key(number, **fields), obj), "a put")
        except (Violation, concurrent.futures.CancelledError):
            raise
        except Exception:
            return False
        finally:
            changed = self.state(obj, number, tokens, version) != "whole"
            obj.ref_count_down()
        expect(not changed, "a put to leave the memory that it reads as it was", "it was changed")
        return True

    @told
    def put_many(self, numbers: Sequence[int]) -> None:
        """Put chunks in one batch."""
        objs = [self.own(number) for number in numbers]
        for obj in objs:
            obj.ref_count_up()
        self.run(lambda: self.connection.batched_put([key(n) for n in numbers], objs), "a batched put")
        for obj in objs:
            obj.ref_count_down()

    @told
    def get(self, number: int, tokens: int | None = None, version: int = 0, **fields: Any) -> str:
        """Get a chunk and give its memory back; see `state`."""
        obj = self.run(lambda: self.connection.get(key(number, **fields)), "a get")
        state = self.state(obj, number, tokens, version)
        if obj is not None:
            obj.ref_count_down()
        return state

    def _states(self, objs: Sequence[Any], numbers: Sequence[int]) -> list[str]:
        states = [self.state(obj, number) for obj, number in zip(objs, numbers, strict=False)]
        for obj in objs:
            if obj is not None:
                obj.ref_count_down()
        return states + ["beyond"] * (len(objs) - len(numbers))

    @told
    def get_many(self, numbers: Sequence[int]) -> list[str]:
        """Get chunks in one batch: one answer a key."""
        keys = [key(n) for n in numbers]
        return self._states(self.run(lambda: self.connection.batched_get(keys), "a batched get"), numbers)

    @told
    def get_leading(self, numbers: Sequence[int]) -> list[str]:
        """Get the leading chunks that are there, as LMCache prefetches them."""
        keys = [key(n) for n in numbers]
        make = self.connection.batched_get_non_blocking
        return self._states(self.run(lambda: make("lookup", keys), "a prefetch"), numbers)

    @told
    def exists(self, number: int, **fields: Any) -> bool:
        """Whether a chunk is there; both ways have to agree."""
        one = key(number, **fields)
        found = bool(self.run(lambda: self.connection.exists(one), "exists"))
        beside = bool(self.connection.exists_sync(one))
        expect(found == beside, "`exists` and `exists_sync` to agree", f"{found} and {beside}")
        return found

    @told
    def leading(self, numbers: Sequence[int]) -> int:
        """How many leading chunks are there, by each way that there is."""
        keys = [key(n) for n in numbers]
        make = self.connection.batched_async_contains
        found = int(self.run(lambda: make("lookup", keys), "batched_async_contains"))
        if self.connection.support_batched_contains():
            beside = int(self.connection.batched_contains(keys))
            expect(found == beside, "both look-ups to agree", f"{found} and {beside}")
        return found

    @told
    def remove(self, number: int) -> bool:
        """Remove a chunk."""
        return bool(self.connection.remove_sync(key(number)))

    @told
    def listed(self) -> list[str]:
        """Every key that is listed."""
        try:
            return list(self.run(lambda: self.connection.list(), "a listing"))
        except NotImplementedError:
            raise NotApplicable("it has no `list`") from None

    def close(self) -> None:
        """Close the connector as LMCache does, where a property has not done so, and end its loop."""
        try:
            if not self.ended:
                self.ended = True
                self.run(lambda: self.connection.close(), "close")
        finally:
            self.loop.end()
