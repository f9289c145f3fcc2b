"""Whatever a peer does, nothing false is stored, memory is bounded, and a healthy client goes on."""

from __future__ import annotations

import gc
import resource
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from lms_tiers import OpaqueKey
from tests.server.conftest import Serve
from tests.server.peer import EXIST, GET, MISS, PUT, Peer, header, healthy, wait_until

MIB = 2**20


@pytest.mark.parametrize("command", [0, 6, 64, 99, -1, 2**31 - 1])
def test_an_unknown_command_ends_that_connection_only(serve: Serve, command: int) -> None:
    server = serve()
    with Peer(server) as bad, Peer(server) as good:
        good.put("k", b"v")
        bad.send(header(command, "k", 10))
        assert bad.closed()
        assert good.get("k") == b"v"
    assert server.counters["protocol_errors"] == 1


@pytest.mark.parametrize("length", [-1, -5, -(2**31), MIB + 1, 2**31 - 1])
def test_a_negative_or_huge_length_ends_that_connection_and_keeps_the_old_value(serve: Serve, length: int) -> None:
    server = serve()
    with Peer(server) as bad:
        bad.put("k", b"old")
        bad.send(header(PUT, "k", length))
        assert bad.closed()
    with Peer(server) as good:
        assert good.get("k") == b"old"
    assert server.budget.peak <= server.settings.max_chunk
    assert healthy(server)


@pytest.mark.parametrize("key", [b"\xff\xfe", b"", b"\xc3", "é".encode() * 75])
def test_an_unusable_key_answers_fail_where_there_is_an_answer_and_the_connection_goes_on(
    serve: Serve, key: bytes
) -> None:
    server = serve()
    with Peer(server) as peer:
        peer.send(header(PUT, key, 1000, 1, 6, (1000, 0, 0, 0)) + bytes(1000))
        for command in (GET, EXIST):
            peer.send(header(command, key))
            assert peer.read(36) == MISS
        peer.put("k", b"v")
        assert peer.get("k") == b"v"
    assert server.backend.list_keys() == [OpaqueKey("k")]
    assert server.counters["bad_fields"] == 3


@pytest.mark.parametrize(
    "bad", [{"fmt": 9}, {"fmt": -1}, {"dtype": 9}, {"dtype": -1}, {"shape": (-1, 0, 0, 0)}, {"location": 3}]
)
def test_a_put_with_a_field_without_meaning_is_skipped(serve: Serve, bad: dict[str, int]) -> None:
    server = serve()
    with Peer(server) as peer:
        peer.put("k", b"old")
        peer.send(header(PUT, "k", 70_000, **bad) + bytes(70_000))  # type: ignore[arg-type]
        assert peer.get("k") == b"old"


def test_a_truncated_header_stores_nothing(serve: Serve) -> None:
    server = serve()
    for cut in (1, 35, 36, 185):
        with Peer(server) as peer:
            peer.send(header(PUT, "k", 5)[:cut])
    # Not `connections == 0`: that holds before the server has accepted them, too.
    wait_until(lambda: server.counters["truncated"] == 4)
    assert healthy(server)


def test_a_truncated_body_stores_nothing_and_keeps_the_old_value(serve: Serve) -> None:
    server = serve()
    with Peer(server) as peer:
        peer.put("k", b"old")
        assert peer.get("k") == b"old", "a put has no answer"
    for leave in (Peer.reset, lambda peer: peer.sock.close()):
        with Peer(server) as peer:
            peer.send(header(PUT, "k", 500_000, 1, 6, (500_000, 0, 0, 0)) + bytes(300_000))
            leave(peer)
    wait_until(lambda: server.connections == 0)
    with Peer(server) as peer:
        assert peer.get("k") == b"old"
    wait_until(lambda: server.budget.used == 0)


def test_a_silent_header_and_a_stalled_body_are_cut(serve: Serve) -> None:
    server = serve(header_timeout=1.5, stall_timeout=1.5)
    with Peer(server) as half_header, Peer(server) as half_body:
        half_header.send(header(GET, "k")[:50])
        half_body.send(header(PUT, "k", 1000) + bytes(10))
        assert half_header.closed()
        assert half_body.closed()
    assert server.counters["timeouts"] == 2
    assert server.budget.used == 0
    assert healthy(server)


def test_a_writer_that_trickles_is_cut_although_it_always_makes_progress(serve: Serve) -> None:
    server = serve(stall_timeout=0.3, min_rate="1MiB")
    with Peer(server) as peer:
        peer.send(header(PUT, "k", 10_000))
        done = threading.Event()

        def trickle() -> None:
            try:
                while not done.wait(0.01):
                    peer.send(b"x")
            except OSError:
                return

        thread = threading.Thread(target=trickle)
        thread.start()
        wait_until(lambda: server.counters["timeouts"] == 1)
        done.set()
        thread.join()
    assert not server.backend.list_keys()


def test_slow_writers_hold_no_thread(serve: Serve) -> None:
    server = serve(threads=2)
    with ExitStack() as stack:
        for i in range(20):
            peer = stack.enter_context(Peer(server))
            peer.send(header(PUT, f"slow{i}", 1000) + bytes(500))
        assert healthy(server)


def test_a_thousand_idle_connections_cost_little_and_delay_nobody(serve: Serve) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    try:
        server = serve()
        threads = threading.active_count()
        with ExitStack() as stack:
            before = _resident()
            for _ in range(1000):
                stack.enter_context(Peer(server))
            wait_until(lambda: server.connections == 1000)
            assert healthy(server)
            assert threading.active_count() == threads
            assert _resident() - before < 64 * MIB
        wait_until(lambda: server.connections == 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_that_end_while_the_sweep_looks_at_all_of_them_do_not_end_it(serve: Serve) -> None:
    server = serve(idle_timeout=600)
    peers = [Peer(server) for _ in range(200)]
    wait_until(lambda: len(server._reactor._parked) == 200)

    def collecting(phase: str, info: dict[str, int]) -> None:
        if threading.current_thread().name == "lm-server-sweep" and len(peers) == 200:
            peers.pop().sock.close()
            wait_until(lambda: server.connections < 200)

    threshold = gc.get_threshold()
    gc.callbacks.append(collecting)
    gc.set_threshold(20)
    pairs = [(i, peer) for i, peer in enumerate(peers * 20)]  # none left for reuse: new ones count for the collector
    for session in server._reactor._sessions.copy().values():
        session.deadline = 0.0  # as if they had been idle for so long
    try:
        wait_until(lambda: server.connections == 0)  # the sweep closes them, if it lives
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(collecting)
        for _, peer in pairs:
            peer.sock.close()


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_storms_of_connections_that_close_at_once_leave_nothing(serve: Serve) -> None:
    server = serve()
    with Peer(server) as good:
        for i in range(500):
            peer = Peer(server)
            peer.reset() if i % 2 else peer.sock.close()
        good.put("k", b"v")
        assert good.get("k") == b"v"
        wait_until(lambda: server.connections == 1)


def test_connections_above_the_limit_are_refused_and_room_is_found_again(serve: Serve) -> None:
    server = serve(max_connections=2)
    with Peer(server) as first, Peer(server):
        assert not first.exists("k")
        wait_until(lambda: server.connections == 2)
        with Peer(server) as third:
            assert third.closed()
    wait_until(lambda: server.connections == 0)
    assert healthy(server)
    wait_until(lambda: server.counters["connections_refused"] == 1)
