"""A crew: threads that take part in coding a chunk, and are an executor like any other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from lms_tiers.codecs import workers
from lms_tiers.codecs.base import MIN_BLOCK, BlockFormat, Buffer
from lms_tiers.codecs.blocks import decode_blocks, encode_blocks
from lms_tiers.codecs.raw import RAW
from lms_tiers.codecs.workers import Crew
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


def test_the_blocks_of_a_chunk_are_coded_beside_each_other(crew: Crew) -> None:
    data = memoryview(bytes(range(256)) * 32)
    blocks = encode_blocks(Meeting(), data, None, crew)
    assert b"".join(blocks) == data
    out = bytearray(len(data))
    decode_blocks(Meeting(), MIN_BLOCK, blocks, memoryview(out), crew)
    assert out == data


def test_what_fails_on_a_thread_of_the_crew_reaches_the_caller(crew: Crew) -> None:
    with pytest.raises(CodecError, match="no such block"):
        decode_blocks(Meeting(True), MIN_BLOCK, [bytes(MIN_BLOCK)] * 2, memoryview(bytearray(2 * MIN_BLOCK)), crew)


def test_a_busy_crew_delays_nobody(crew: Crew) -> None:
    gate = threading.Event()
    busy = [crew.submit(gate.wait, 30) for _ in range(2)]
    data = memoryview(bytes(8 << 20))
    assert len(encode_blocks(RAW, data, None, crew)) == 8
    assert not any(future.done() for future in busy)
    gate.set()
    assert all(future.result(30) for future in busy)


def test_work_that_was_taken_back_is_never_done(crew: Crew) -> None:
    gate, done = threading.Event(), threading.Event()
    busy = [crew.submit(gate.wait, 30) for _ in range(2)]
    (share,) = crew.lend(done.set, 1)
    assert share.settle() is None
    gate.set()
    for future in busy:
        future.result(30)
    crew.submit(int).result(30)
    assert not done.is_set()


def test_a_crew_lends_no_more_threads_than_it_has(crew: Crew) -> None:
    shares = crew.lend(int, 5)
    assert len(shares) == 2
    assert [share.settle() for share in shares] == [None, None]


def test_results_and_errors_come_through_futures(crew: Crew) -> None:
    assert list(crew.map(abs, [-1, 2, -3])) == [1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        crew.submit(divmod, 1, 0).result(30)


def test_a_crew_that_was_shut_down_refuses_work() -> None:
    crew = Crew(1)
    assert crew.submit(abs, -1).result(30) == 1
    crew.shutdown()
    crew.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        crew.submit(abs, -1)
    with pytest.raises(RuntimeError, match="shut down"):
        crew.lend(int, 1)
    Crew(1).shutdown()


def test_shutting_down_cancels_what_was_not_begun_where_asked() -> None:
    crew = Crew(1)
    begun, gate = threading.Event(), threading.Event()

    def wait() -> bool:
        begun.set()
        return gate.wait(30)

    running, waiting = crew.submit(wait), crew.submit(int)
    assert begun.wait(30)
    crew.shutdown(wait=False, cancel_futures=True)
    gate.set()
    assert running.result(30)
    with pytest.raises(CancelledError):
        waiting.result(30)


@pytest.mark.parametrize("wait", [False, True])
def test_shutdown_at_any_moment_of_a_submission_refuses_it_or_lets_it_be_done(wait: bool) -> None:
    for stop in each_stop(workers.__file__, ("submit", "lend", "_put"), "submitting"):
        crew = Crew(1, "crew")
        outcomes: list[object] = []

        def submit(crew: Crew = crew, outcomes: list[object] = outcomes) -> None:
            try:
                outcomes.append(crew.submit(lambda: "done").result(60))
            except RuntimeError:
                outcomes.append("refused")

        submitting = threading.Thread(target=submit, name="submitting")
        submitting.start()
        stop.beside(lambda crew=crew: crew.shutdown(wait))  # type: ignore[misc]  # bound here
        submitting.join(60)
        crew.shutdown()
        assert outcomes in (["done"], ["refused"])
