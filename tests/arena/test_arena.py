"""The arena's table: accounting equals a model, leases hold pages, fences order their reuse, threads agree."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from lms_tiers.arena.arena import Arena
from lms_tiers.arena.chunk import Chunk
from lms_tiers.errors import BackendClosedError, CapacityError, ForkedProcessError, ValueTooLargeError
from lms_tiers.messages import ChunkMeta, MemoryFormat

PAGE = 4096
PAGES = 12


def meta(nbytes: int) -> ChunkMeta:
    return ChunkMeta(nbytes, MemoryFormat.BINARY, None, (nbytes,))


def store(arena: Arena, key: str, nbytes: int) -> Chunk:
    chunk = arena.reserve(key, meta(nbytes))
    arena.publish(chunk)
    return chunk


@dataclass(eq=False)
class Fence:
    passed: bool = False


class ArenaAgainstAModel(RuleBasedStateMachine):
    """Every page has at most one owner among published, reserved and still-read chunks; the numbers add up."""

    leases = Bundle("leases")
    reservations = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.fences: list[Fence] = []
        self.arena = Arena("a", PAGES * PAGE, PAGE, fence_done=lambda fence: fence.passed, patience=0)
        self.published: dict[str, Chunk] = {}
        self.leased: list[Chunk] = []
        self.reserved: list[Chunk] = []

    def owned(self) -> list[Chunk]:
        return list({id(c): c for c in [*self.published.values(), *self.leased, *self.reserved]}.values())

    @rule(target=reservations, key=st.sampled_from("abc"), nbytes=st.integers(0, 5 * PAGE))
    def reserve(self, key: str, nbytes: int) -> object:
        pages = -(-nbytes // PAGE)
        free = PAGES - sum(c.pages for c in self.owned())
        if pages > free:
            with pytest.raises(CapacityError) as error:
                self.arena.reserve(key, meta(nbytes))
            assert (error.value.needed, error.value.free) == (pages * PAGE, free * PAGE)
            return multiple()
        chunk = self.arena.reserve(key, meta(nbytes))
        unpassed = [f for f in self.fences if not f.passed and getattr(f, "pages", set()) & self.pages(chunk)]
        assert set(map(id, unpassed)) <= set(map(id, chunk.after)), "a writer must know who is still at its pages"
        self.reserved.append(chunk)
        return chunk

    @staticmethod
    def pages(chunk: Chunk) -> set[int]:
        return {page for start, length in chunk.runs for page in range(start, start + length)}

    def fence(self, chunk: Chunk) -> Fence:
        fence = Fence()
        fence.pages = self.pages(chunk)  # type: ignore[attr-defined]  # the model's own note
        self.fences.append(fence)
        return fence

    @rule(chunk=consumes(reservations), fenced=st.booleans())
    def publish(self, chunk: Chunk, fenced: bool) -> None:
        if fenced:
            chunk.written = self.fence(chunk)
        self.arena.publish(chunk)
        self.reserved.remove(chunk)
        self.published[chunk.key] = chunk

    @rule(chunk=consumes(reservations), fenced=st.booleans())
    def abandon(self, chunk: Chunk, fenced: bool) -> None:
        if fenced:
            chunk.written = self.fence(chunk)
        self.arena.abandon(chunk)
        self.reserved.remove(chunk)

    @rule(key=st.sampled_from("abc"))
    def remove(self, key: str) -> None:
        self.arena.remove(key)
        self.published.pop(key, None)

    @rule(target=leases, key=st.sampled_from("abc"))
    def lease(self, key: str) -> object:
        chunk = self.arena.lease(key)
        assert chunk is self.published.get(key)
        if chunk is None:
            return multiple()
        self.leased.append(chunk)
        return chunk

    @rule(chunk=consumes(leases), how=st.sampled_from(["release", "read", "lend"]))
    def end_lease(self, chunk: Chunk, how: str) -> None:
        if how == "lend":
            holder = Fence()
            self.arena.lend(chunk, holder)
            used = self.arena.used_bytes
            chunks = {id(c): c for c in self.owned()}
            assert used == sum(c.pages for c in chunks.values()) * PAGE, "a holder that lives holds"
            del holder
        else:
            self.arena.release(chunk, self.fence(chunk) if how == "read" else None)
        self.leased.remove(chunk)

    @rule(data=st.data())
    def device_finishes_something(self, data: st.DataObject) -> None:
        if self.fences:
            self.fences.pop(data.draw(st.integers(0, len(self.fences) - 1))).passed = True

    @invariant()
    def no_page_has_two_owners(self) -> None:
        pages = [page for chunk in self.owned() for page in self.pages(chunk)]
        assert len(pages) == len(set(pages))
        assert all(0 <= page < PAGES for page in pages)

    @invariant()
    def numbers_equal_the_model(self) -> None:
        owned = sum(c.pages for c in self.owned())
        live = sum(c.pages for c in {id(c): c for c in [*self.published.values(), *self.reserved]}.values())
        assert self.arena.used_bytes == owned * PAGE <= self.arena.usable_bytes
        assert self.arena.leaving_bytes == (owned - live) * PAGE
        assert self.arena.peak_bytes >= self.arena.used_bytes
        assert {c.key for c in self.arena.chunks()} == set(self.published)
        assert len(self.arena) == len(self.published)


TestArenaAgainstAModel = ArenaAgainstAModel.TestCase


def test_a_chunk_larger_than_the_arena_is_refused_for_good() -> None:
    arena = Arena("a", 2 * PAGE + 1, PAGE)
    assert arena.usable_bytes == 2 * PAGE
    with pytest.raises(ValueTooLargeError) as error:
        arena.reserve("k", meta(2 * PAGE + 1))
    assert (error.value.size, error.value.limit) == (2 * PAGE + 1, 2 * PAGE)


def test_an_overwrite_that_does_not_fit_keeps_the_old_chunk() -> None:
    arena = Arena("a", 2 * PAGE, PAGE, patience=0)
    old = store(arena, "k", 2 * PAGE)
    with pytest.raises(CapacityError):
        arena.reserve("k", meta(PAGE))
    assert arena.get("k") is old


def test_a_reservation_waits_for_the_reader_of_a_removed_chunk() -> None:
    arena = Arena("a", PAGE, PAGE, patience=60)
    store(arena, "old", PAGE)
    lease = arena.lease("old")
    assert lease is not None
    arena.remove("old")
    got: list[Chunk] = []
    waiter = threading.Thread(target=lambda: got.append(arena.reserve("new", meta(PAGE))))
    waiter.start()
    arena.release(lease)
    waiter.join(30)
    assert [chunk.key for chunk in got] == ["new"]


def test_a_reservation_sees_that_a_holder_died_while_the_lock_was_held() -> None:
    arena = Arena("a", PAGE, PAGE, patience=60)
    store(arena, "old", PAGE)
    lease = arena.lease("old")
    assert lease is not None
    holder = Fence()
    arena.lend(lease, holder)
    arena.remove("old")
    assert arena.leaving_bytes == PAGE
    with arena._lock:  # as if the collector ran inside an allocation under the lock
        del holder
    assert arena.reserve("new", meta(PAGE)).pages == 1


def test_a_reservation_finds_a_lease_that_only_a_reference_cycle_keeps() -> None:
    arena = Arena("a", PAGE, PAGE, patience=0.2)
    store(arena, "old", PAGE)
    lease = arena.lease("old")
    assert lease is not None

    class Reader:
        me: object

    reader = Reader()
    reader.me = reader
    arena.lend(lease, reader)
    gc.disable()
    try:
        del reader
        arena.remove("old")
        assert arena.leaving_bytes == PAGE
        assert arena.reserve("new", meta(PAGE)).pages == 1
    finally:
        gc.enable()


def test_a_reservation_does_not_wait_where_no_reader_could_help() -> None:
    arena = Arena("a", 2 * PAGE, PAGE, patience=3600)
    store(arena, "kept", PAGE)
    with pytest.raises(CapacityError):
        arena.reserve("new", meta(2 * PAGE))


def test_readers_that_outstayed_one_wait_are_not_waited_for_again() -> None:
    """A tier lets another chunk leave then, at every put as long as a view is held."""
    arena = Arena("a", 2 * PAGE, PAGE, patience=0.05)
    for key in ("held", "read"):
        store(arena, key, PAGE)
    held, read = arena.lease("held"), arena.lease("read")
    assert held is not None
    assert read is not None
    arena.remove("held")
    with pytest.raises(CapacityError):
        arena.reserve("new", meta(PAGE))
    arena._patience = 3600  # type: ignore[misc]  # whoever waited again would wait for ever
    with pytest.raises(CapacityError):
        arena.reserve("new", meta(PAGE))
    arena.remove("read")  # this one has not been waited for
    got: list[Chunk] = []
    waiter = threading.Thread(target=lambda: got.append(arena.reserve("new", meta(PAGE))))
    waiter.start()
    arena.release(read)
    waiter.join(30)
    assert [chunk.key for chunk in got] == ["new"]
    arena.release(held)
    assert arena.reserve("another", meta(PAGE)).pages == 1


def test_close_wakes_a_waiting_reservation() -> None:
    arena = Arena("a", PAGE, PAGE, patience=3600)
    store(arena, "old", PAGE)
    arena.lease("old")
    arena.remove("old")
    errors: list[BaseException] = []

    def reserve() -> None:
        try:
            arena.reserve("new", meta(PAGE))
        except BackendClosedError as error:
            errors.append(error)

    waiter = threading.Thread(target=reserve)
    waiter.start()
    assert arena.close()
    waiter.join(30)
    assert len(errors) == 1


def test_pages_freed_before_their_fence_passed_bind_every_later_writer() -> None:
    arena = Arena("a", 4 * PAGE, PAGE, fence_done=lambda fence: fence.passed)
    first = arena.reserve("k", meta(4 * PAGE))
    first.written = fence = Fence()
    arena.publish(first)
    arena.remove("k")
    small = [arena.reserve(str(i), meta(PAGE)) for i in range(4)]
    assert all(fence in chunk.after for chunk in small), "also those that got a leftover of the fenced run"
    fence.passed = True
    arena.abandon(small[0])
    assert arena.reserve("x", meta(PAGE)).after == []


def test_passed_fences_of_many_reads_are_forgotten() -> None:
    arena = Arena("a", PAGE, PAGE, fence_done=lambda fence: fence.passed)
    chunk = store(arena, "k", PAGE)
    for _ in range(100):
        assert arena.lease("k") is chunk
        arena.release(chunk, Fence(passed=True))
    assert len(chunk.reads) < 10


def test_after_close_every_call_says_so_and_drain_answers_what_is_under_way() -> None:
    arena = Arena("a", 2 * PAGE, PAGE, fence_done=lambda fence: fence.passed)
    chunk = store(arena, "k", PAGE)
    chunk.written = fence = Fence()
    reserved = arena.reserve("l", meta(PAGE))
    lease = arena.lease("k")
    assert lease is not None
    assert arena.close()
    assert not arena.close()
    calls: list[Callable[[], object]] = [
        arena.check,
        lambda: arena.lease("k"),
        lambda: arena.remove("k"),
        lambda: arena.publish(reserved),
    ]
    for call in calls:
        with pytest.raises(BackendClosedError):
            call()
    drained: list[object] = []
    waiter = threading.Thread(target=lambda: drained.extend(arena.drain()))
    waiter.start()
    arena.release(lease)
    waiter.join(30)
    assert drained == [fence]


def test_a_forked_child_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    arena = Arena("a", PAGE, PAGE)
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(ForkedProcessError):
        arena.check()
    assert arena.close(), "closing a child's copy touches nothing shared"


def test_threads_never_share_a_page_and_lose_none() -> None:
    arena = Arena("a", 64 * PAGE, PAGE, patience=0)
    owner: dict[int, object] = {}
    wrong: list[object] = []
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        import random

        random_ = random.Random(seed)
        start.wait()
        for _ in range(600):
            key = random_.choice("abcdef")
            kind = random_.random()
            if kind < 0.5:
                try:
                    chunk = arena.reserve(key, meta(random_.randrange(1, 9 * PAGE)))
                except CapacityError:
                    arena.remove(random_.choice("abcdef"))
                    continue
                mine = object()
                pages = [p for s, n in chunk.runs for p in range(s, s + n)]
                for page in pages:
                    if owner.setdefault(page, mine) is not mine:
                        wrong.append((page, key))
                for page in pages:
                    del owner[page]
                arena.publish(chunk)
            elif kind < 0.9:
                leased = arena.lease(key)
                if leased is not None:
                    arena.release(leased)
            else:
                arena.remove(key)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    for key in "abcdef":
        arena.remove(key)
    gc.collect()
    assert arena.used_bytes == arena.leaving_bytes == 0
    assert arena.free_runs == 1
