"""A wrapper that breaks another backend on purpose, for tests of what stands above it.

    faulty:lmdb:/tmp/kv?fail=0.01&slow=0.05&slow_seconds=0.2&seed=7

In a test, `FaultyBackend(inner)` takes orders: ``faulty.inject("get", Fault.FAIL, times=1)``, or a line of them, which
a device text takes as well: ``faulty:cpu?faults=get fail @3; put fail-after``. What happened is such a line again
(`happened`), whatever was left to chance. Without orders it is the inner backend. Nothing here is for production.
"""

from __future__ import annotations

import collections
import importlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Final, List, Optional, TypeVar

import pydantic

from lms_tiers.errors import BackendClosedError
from lms_tiers.interface import BackendStats, Capabilities, ChunkInfo, ChunkView, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj
from lms_tiers.options import Options
from lms_tiers.plugins.faulty.orders import WAIT, Order, parse_orders
from lms_tiers.plugins.faulty.orders import Fault as Fault

T = TypeVar("T")

#: Faults that are remembered for `happened`.
_REMEMBERED: Final = 10_000


class FaultyOptions(Options):
    """Probabilities of faults, per call."""

    fail: float = pydantic.Field(0.0, ge=0, le=1, description="any call raises before it does anything")
    fail_after: float = pydantic.Field(0.0, ge=0, le=1, description="put and remove raise after they were carried out")
    nothing: float = pydantic.Field(0.0, ge=0, le=1, description="get answers None")
    wrong_length: float = pydantic.Field(0.0, ge=0, le=1, description="get answers one byte less")
    lie: float = pydantic.Field(0.0, ge=0, le=1, description="contains answers the opposite")
    slow: float = pydantic.Field(0.0, ge=0, le=1, description="any call waits first")
    slow_seconds: float = pydantic.Field(0.01, ge=0)
    seed: int = 0
    faults: str = pydantic.Field("", description="faults on order, as `get fail @3; put slow p=0.1 for=200ms`")


class FaultyBackend(LMSBackendInterface):
    """`inner`, with faults on order.

    Parameters
    ----------
    inner : LMSBackendInterface
        Closed with this backend.
    seed : int
        Of the generator behind probabilities.

    Attributes
    ----------
    calls : collections.Counter of str
        Calls by operation.
    fired : collections.Counter of Fault
        Faults that happened.
    """

    def __init__(self, inner: LMSBackendInterface, seed: int = 0) -> None:
        self.inner: Final = inner
        self.calls: Final[collections.Counter[str]] = collections.Counter()
        self.fired: Final[collections.Counter[Fault]] = collections.Counter()
        self._orders: list[Order] = []
        self._happened: Final[collections.deque[Order]] = collections.deque(maxlen=_REMEMBERED)
        self._random: Final = random.Random(seed)
        self._lock: Final = threading.Lock()
        self._gate = threading.Event()
        self._closed = threading.Event()
        self._blocked = 0

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]  # the inner backend's
        """The inner backend's; tensors go through `get` and `put` here, so that they see the faults."""
        return replace(self.inner.capabilities, tensors=False)

    # -- orders ------------------------------------------------------------------------------------------------------

    def inject(
        self, operation: str, fault: Fault, *, times: int | None = None, probability: float = 1.0,
        error: Callable[[], BaseException] | None = None, seconds: float = WAIT,
    ) -> None:  # fmt: skip
        """Order a fault.

        Parameters
        ----------
        operation : str
            A method's name, or ``"*"``.
        times : int, optional
            How often; without it until `heal`.
        probability : float
            Of each call.
        error : callable, optional
            Makes what FAIL and FAIL_AFTER raise: any exception at all.
        seconds : float
            How long SLOW waits.
        """
        with self._lock:
            self._orders.append(Order(operation, fault, 1, times, probability, seconds, error))

    def order(self, line: str) -> None:
        """Order the faults of a line; `ConfigError` where it is none. See `orders`."""
        orders = list(parse_orders(line))
        with self._lock:
            self._orders += orders

    @property
    def happened(self) -> str:
        """The faults that happened so far, as a line: ordered again, it breaks the same calls."""
        with self._lock:
            return "; ".join(map(str, self._happened))

    def __repr__(self) -> str:
        return f"<FaultyBackend over {type(self.inner).__name__}, happened: {self.happened or 'nothing'}>"

    def heal(self) -> None:
        """Take all orders back and let blocked calls go on."""
        with self._lock:
            self._orders.clear()
        self.release()

    def release(self) -> None:
        """Let the calls that are blocked now go on."""
        with self._lock:
            gate, self._gate = self._gate, threading.Event()
        gate.set()

    @property
    def blocked(self) -> int:
        """Calls that hang now."""
        return self._blocked

    def _draw(self, operation: str) -> tuple[list[Order], threading.Event]:
        """The orders for this call, and what it blocks at: drawn in one step, so that no `heal` comes between."""
        with self._lock:
            self.calls[operation] += 1
            call = self.calls[operation]
            drawn = []
            for order in self._orders:
                if order.fits(operation, call) and (
                    order.probability >= 1 or self._random.random() < order.probability
                ):
                    drawn.append(order)
                    self.fired[order.fault] += 1
                    self._happened.append(Order(operation, order.fault, call, 1, seconds=order.seconds))
                    if order.times is not None:
                        order.times -= 1
            self._orders = [order for order in self._orders if order.times is None or order.times > 0]
            return drawn, self._gate

    def _call(self, operation: str, call: Callable[[], T], nothing: T | None = None) -> tuple[T | None, set[Fault]]:
        drawn, gate = self._draw(operation)
        faults = {order.fault for order in drawn}
        for order in drawn:
            if order.fault is Fault.SLOW:
                self._closed.wait(order.seconds)
            elif order.fault is Fault.BLOCK:
                self._block(gate)
            elif order.fault is Fault.CLOSE:
                self.inner.close()
            elif order.fault is Fault.FAIL:
                raise order.raised()
        answer = nothing if Fault.NOTHING in faults else call()
        for order in drawn:
            if order.fault is Fault.FAIL_AFTER:
                raise order.raised()
        return answer, faults

    def _block(self, gate: threading.Event) -> None:
        with self._lock:
            self._blocked += 1
        try:
            while not gate.wait(0.05):
                if self._closed.is_set():
                    raise BackendClosedError("faulty")
        finally:
            with self._lock:
                self._blocked -= 1

    # -- the contract ------------------------------------------------------------------------------------------------

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """The inner put."""
        self._call("put", lambda: self.inner.put(client_meta, kv_chunk_bytes))

    def put_many(self, items: Sequence[tuple[ClientMetaMessage, bytearray]]) -> None:
        """The inner batch."""
        self._call("put_many", lambda: self.inner.put_many(items))

    def contains(self, key: CacheEngineKey) -> bool:
        """The inner answer, or a lie."""
        answer, faults = self._call("contains", lambda: self.inner.contains(key), False)
        return bool(answer) is not (Fault.LIE in faults)

    def contains_many(self, keys: Sequence[CacheEngineKey]) -> list[bool]:
        """The inner answers, or lies."""
        answers, faults = self._call("contains_many", lambda: self.inner.contains_many(keys), [False] * len(keys))
        return [answer is not (Fault.LIE in faults) for answer in answers or ()]

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """The inner chunk, or nothing, or one byte less."""
        obj, faults = self._call("get", lambda: self.inner.get(key))
        if obj is not None and Fault.WRONG_LENGTH in faults:
            return replace(obj, data=bytearray(obj.data)[:-1], length=obj.length - 1)
        return obj

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """The inner batch."""
        none: list[LMSMemoryObj | None] = [None] * len(keys)
        objs, faults = self._call("get_many", lambda: self.inner.get_many(keys), none)
        return [*(objs or ()), None] if Fault.WRONG_LENGTH in faults else (objs or [])

    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        """The inner read, or a wrong length."""
        meta, faults = self._call("get_into", lambda: self.inner.get_into(key, buffer))
        return replace(meta, length=meta.length - 1) if meta is not None and Fault.WRONG_LENGTH in faults else meta

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        """The inner view."""
        block: AbstractContextManager[ChunkView | None] | None
        block, _ = self._call("view", lambda: self.inner.view(key))
        if block is None:
            yield None
        else:
            with block as view:
                yield view

    def remove(self, key: CacheEngineKey) -> None:
        """The inner remove."""
        self._call("remove", lambda: self.inner.remove(key))

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """The inner batch."""
        self._call("remove_many", lambda: self.inner.remove_many(keys))

    def list_keys(self) -> List[CacheEngineKey]:
        """The inner list."""
        return self._call("list_keys", self.inner.list_keys)[0] or []

    def scan(self) -> Iterator[ChunkInfo]:
        """The inner scan."""
        yield from self._call("scan", self.inner.scan)[0] or ()

    def touch(self, keys: Sequence[CacheEngineKey]) -> None:
        """The inner touch."""
        self._call("touch", lambda: self.inner.touch(keys))

    def flush(self, timeout: float | None = None) -> None:
        """The inner flush."""
        self._call("flush", lambda: self.inner.flush(timeout))

    def stats(self) -> BackendStats:
        """The inner statistics."""
        return self._call("stats", self.inner.stats)[0] or BackendStats()

    @property
    def usable_bytes(self) -> int | None:
        """The inner backend's."""
        return self.inner.usable_bytes

    def reserve_bytes(self, length: int) -> int:
        """The inner backend's."""
        return self.inner.reserve_bytes(length)

    def stored_bytes(self, key: CacheEngineKey) -> int | None:
        """The inner backend's."""
        return self.inner.stored_bytes(key)

    def shrunk(self) -> dict[str, int]:
        """The inner backend's."""
        return self.inner.shrunk()

    def save_state(self, state: bytes) -> None:
        """The inner save."""
        self._call("save_state", lambda: self.inner.save_state(state))

    def load_state(self) -> bytes | None:
        """The inner state."""
        return self._call("load_state", self.inner.load_state)[0]

    def close(self) -> None:
        """Close the inner backend; blocked and slow calls end."""
        with self._lock:
            blocking = any(
                order.fits("close", self.calls["close"] + 1) and order.fault is Fault.BLOCK for order in self._orders
            )
        if blocking:
            self._call("close", lambda: None)
        self._closed.set()
        self.inner.close()


def open_backend(location: str, capacity: int | None, options: FaultyOptions) -> FaultyBackend:
    """The backend that `location`, a tier's text, describes, with faults at random."""
    # A wrapper opens another backend by its text as any caller does, through the door above all backends.
    factory = importlib.import_module("lms_tiers.factory")
    device = importlib.import_module("lms_tiers.device")
    spec = device.parse_tier(location or "cpu")
    if spec.capacity is None:
        spec = replace(spec, capacity=capacity)
    faulty = FaultyBackend(factory.open_backend(spec), options.seed)
    for operation, fault, probability in (
        ("*", Fault.FAIL, options.fail),
        ("put", Fault.FAIL_AFTER, options.fail_after),
        ("remove", Fault.FAIL_AFTER, options.fail_after),
        ("get", Fault.NOTHING, options.nothing),
        ("get", Fault.WRONG_LENGTH, options.wrong_length),
        ("contains", Fault.LIE, options.lie),
        ("*", Fault.SLOW, options.slow),
    ):
        if probability:
            faulty.inject(operation, fault, probability=probability, seconds=options.slow_seconds)
    faulty.order(options.faults)
    return faulty
