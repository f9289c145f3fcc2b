"""KeyboardInterrupt anywhere in a call of the backend: no page is lost, and every chunk is the old one, the new or none."""

from __future__ import annotations

import functools
import gc
import random
from collections.abc import Callable
from typing import Any

import pytest

from lms_tiers.arena.recycle import SMALLEST
from lms_tiers.plugins.pinned.backend import PinnedBackend, PinnedOptions
from tests.depth import DEPTH
from tests.plugins.arena_chunks import content as drawn
from tests.plugins.arena_chunks import key, message
from tests.tiered.interrupts import interrupted

PAGE = 4096
SIZE = 10 * PAGE
assert SIZE > SMALLEST, "buffers are to be recycled"

#: Where the interrupt meets a generator or a weak reference's callback, Python says so and goes on.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


content = functools.cache(drawn)


def view(backend: PinnedBackend, old: PinnedBackend) -> None:
    with backend.view(key("a")) as lent:
        assert lent is not None
        assert b"".join(lent.buffers) == content(1, SIZE)


def view_of_what_leaves(backend: PinnedBackend, old: PinnedBackend) -> None:
    with backend.view(key("a")) as lent:
        backend.remove(key("a"))
        assert lent is not None
        assert b"".join(lent.buffers) == content(1, SIZE)


CALLS: dict[str, Callable[[PinnedBackend, PinnedBackend], Any]] = {
    "put": lambda backend, old: backend.put(message("c", SIZE), content(3, SIZE)),
    "put over": lambda backend, old: backend.put(message("a", SIZE), content(3, SIZE)),
    "get": lambda backend, old: backend.get(key("a")),
    "get_into": lambda backend, old: backend.get_into(key("a"), bytearray(SIZE)),
    "get_scattered": lambda backend, old: backend.get_scattered(key("a"), [bytearray(PAGE), bytearray(SIZE)]),
    "put_from": lambda backend, old: backend.put_from([message("c", SIZE), message("a", SIZE)], old),
    "remove": lambda backend, old: backend.remove(key("a")),
    "view": view,
    "view of what leaves": view_of_what_leaves,
}


def leases(backend: PinnedBackend) -> list[Any]:
    """Of chunks that are there."""
    for chunk in backend._arena.chunks():
        chunk.forget_dead()
    return [reader for chunk in backend._arena.chunks() for reader in chunk.readers]


def check(backend: PinnedBackend, capacity: int) -> None:
    """Pages are those of chunks; a chunk put is there whole; all of the capacity can be filled, and is free at the end."""
    gc.collect()
    arena = backend._arena
    assert arena.used_bytes == sum(chunk.pages for chunk in arena.chunks()) * PAGE
    assert arena.leaving_bytes == 0
    assert not leases(backend), "a lease is left"
    recycled = backend._recycler
    assert recycled.lent_bytes == 0
    assert recycled.idle_bytes <= recycled.limit
    for name, values in {"a": (1, 3), "b": (2,), "c": (3,)}.items():
        found = backend.get(key(name))
        assert found is None or bytes(found.data) in [content(value, SIZE) for value in values]
    assert backend.get(key("b")) is not None, "a chunk that nobody was at is gone"
    for name in "abc":
        backend.remove(key(name))
    for i in range(capacity // SIZE):
        backend.put(message(f"{i}", SIZE), content(i, SIZE))
    assert arena.used_bytes == capacity // SIZE * SIZE
    for i in range(capacity // SIZE):
        found = backend.get(key(f"{i}"))
        assert found is not None
        assert bytes(found.data) == content(i, SIZE)
        backend.remove(key(f"{i}"))
    assert (arena.used_bytes, arena.free_runs) == (0, 1)


def interrupt(name: str, at: int) -> bool:
    """Interrupt a call at opcode `at`; False where it has no so many."""
    capacity = 4 * SIZE
    options = PinnedOptions(pin="off", page=PAGE, threads=1)
    with PinnedBackend(capacity, options) as backend, PinnedBackend(capacity, options) as other:
        for i, letter in enumerate("ab"):
            backend.put(message(letter, SIZE), content(i + 1, SIZE))
        for letter in "ac":
            other.put(message(letter, SIZE), content(3, SIZE))
        with interrupted(at) as interrupt:
            CALLS[name](backend, other)
        try:
            check(backend, capacity)
            assert other._arena.used_bytes == 2 * SIZE
            assert not leases(other)
        except BaseException as error:
            error.add_note(f"{name} interrupted at opcode {at}, {interrupt.where or 'which it does not reach'}")
            raise
        return bool(interrupt.where)


@pytest.mark.parametrize("stride", [61, pytest.param(max(1, 7 // DEPTH), marks=pytest.mark.deep)], ids=["some", "most"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_interrupted_at_any_opcode_loses_no_page(name: str, stride: int) -> None:
    at = random.Random(name).randrange(stride) + 1
    gc.freeze()  # so that only what the calls leave is looked through
    try:
        while interrupt(name, at):
            at += stride
    finally:
        gc.unfreeze()
    assert at > stride
