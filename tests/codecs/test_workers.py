"""A crew: threads that take part in coding a chunk."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from lms_tiers.codecs import workers
from lms_tiers.codecs.base import MIN_BLOCK, BlockFormat, Buffer, Codec, decode_into
from lms_tiers.codecs.raw import RawCodec
from lms_tiers.codecs.workers import Crew, Share
from lms_tiers.errors import CodecError
from tests.stepping import each_stop


@pytest.fixture
def crew() -> Iterator[Crew]:
    with Crew(2) as crew:
        yield crew


class Meeting(BlockFormat):
    """A format of two blocks, each of which waits until the other one is being coded."""

    layout = "meeting/1"
    block_bytes = MIN_BLOCK

    def __init__(self, fails_on_a_crew: bool = False) -> None:
        self.barrier = threading.Barrier(2)
        self.caller = threading.get_ident()
        self.fails_on_a_crew = fails_on_a_crew

    def bound(self, nbytes: int) -> int:
        return 0

    def encode_block(self, data: memoryview, out: memoryview) -> memoryview:
        self.barrier.wait(30)
        return data

    def decode_block(self, block: Buffer, out: memoryview) -> None:
        self.barrier.wait(30)
        if self.fails_on_a_crew and threading.get_ident() != self.caller:
            raise ValueError("no such block")
        out[:] = block


class MeetingCodec(Codec):
    """Chunks in that format."""

    name = "meeting"

    def __init__(self, fails_on_a_crew: bool = False) -> None:
        self.form = Meeting(fails_on_a_crew)

    def plan(self, data: memoryview, dtype: str | None) -> BlockFormat:
        return self.form

    def open(self, layout: str) -> BlockFormat:
        return self.form


def test_the_blocks_of_a_chunk_are_coded_beside_each_other(crew: Crew) -> None:
    data, codec = memoryview(bytes(range(256)) * 32), MeetingCodec()
    blocks = codec.encode(data, None, crew=crew).blocks
    assert b"".join(blocks) == data
    out = bytearray(len(data))
    decode_into("meeting/1", MIN_BLOCK, blocks, memoryview(out), codec=codec, crew=crew)
    assert out == data


def test_what_fails_on_a_thread_of_the_crew_reaches_the_caller(crew: Crew) -> None:
    blocks, out = [bytes(MIN_BLOCK)] * 2, memoryview(bytearray(2 * MIN_BLOCK))
    with pytest.raises(CodecError, match="no such block"):
        decode_into("meeting/1", MIN_BLOCK, blocks, out, codec=MeetingCodec(fails_on_a_crew=True), crew=crew)


def keep_busy(crew: Crew) -> tuple[threading.Event, list[Share]]:
    """All threads of a crew of two wait for the event."""
    gate, begun = threading.Event(), threading.Barrier(3)

    def wait() -> None:
        begun.wait(30)
        assert gate.wait(30)

    shares = crew.lend(wait, 2)
    begun.wait(30)
    return gate, shares


def test_a_busy_crew_delays_nobody(crew: Crew) -> None:
    gate, busy = keep_busy(crew)
    assert len(RawCodec().encode(memoryview(bytes(8 << 20)), None, crew=crew).blocks) == 8
    assert not gate.is_set()
    gate.set()
    assert [share.settle() for share in busy] == [None, None]


def test_work_that_was_taken_back_is_never_done(crew: Crew) -> None:
    done = threading.Event()
    gate, busy = keep_busy(crew)
    (share,) = crew.lend(done.set, 1)
    assert share.settle() is None
    gate.set()
    assert [share.settle() for share in busy] == [None, None]
    crew.shutdown()
    assert not done.is_set()


def test_a_crew_lends_no_more_threads_than_it_has(crew: Crew) -> None:
    shares = crew.lend(int, 5)
    assert len(shares) == 2
    assert [share.settle() for share in shares] == [None, None]


def test_a_crew_that_was_shut_down_refuses_work() -> None:
    crew = Crew(1)
    assert crew.lend(int, 1)[0].settle() is None
    crew.shutdown()
    crew.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        crew.lend(int, 1)
    Crew(1).shutdown()


def test_shutdown_at_any_moment_of_lending_refuses_the_work_or_lets_it_be_done() -> None:
    for stop in each_stop(workers.__file__, ("lend", "_put"), "lending"):
        crew = Crew(1, "crew")
        done = threading.Event()
        outcomes: list[str] = []

        def lend(crew: Crew = crew, done: threading.Event = done, outcomes: list[str] = outcomes) -> None:
            try:
                crew.lend(done.set, 1)
                outcomes.append("lent")
            except RuntimeError:
                outcomes.append("refused")

        lending = threading.Thread(target=lend, name="lending")
        lending.start()
        stop.beside(crew.shutdown)
        lending.join(60)
        crew.shutdown()
        assert (outcomes, done.is_set()) in ((["lent"], True), (["refused"], False))
