"""Peers that stop reading, or only read slowly, and what waits for the budget: nobody else pays for them."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from lms_tiers import LMSLocalBackend, OpaqueKey
from lms_tiers.interface import ChunkView
from lms_tiers.messages import CacheEngineKey
from lms_tiers.wire.extension import XCommand, encode_xrequest
from tests.server.conftest import Serve
from tests.server.peer import FAIL, GET, PUT, Peer, header, healthy, wait_until

MIB = 2**20


class Lending(LMSLocalBackend):
    """Notes how many views are open, as a store with read transactions would mind."""

    def __init__(self) -> None:
        super().__init__()
        self.open = 0

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        self.open += 1
        try:
            with super().view(key) as view:
                yield view
        finally:
            self.open -= 1


def test_a_reader_that_stops_reading_holds_neither_a_thread_nor_the_chunk_and_is_cut(serve: Serve) -> None:
    backend = Lending()
    limits = {"max_chunk": "16MiB", "receive_budget": "64MiB"}
    with Peer(serve(backend, stall_timeout=60, **limits)) as peer:  # however slow this machine is at sending
        peer.put("big", bytes(16 * MIB))
        assert peer.exists("big")
    server = serve(backend, threads=2, stall_timeout=1.5, **limits)
    with ExitStack() as stack:
        readers = [stack.enter_context(Peer(server, receive_buffer=4096)) for _ in range(3)]
        for reader in readers:
            reader.send(header(GET, "big"))
        wait_until(lambda: server.counters["slow_readers"] == 3)
        assert backend.open == 0
        assert healthy(server)
        wait_until(lambda: server.counters["timeouts"] == 3)
    assert server.budget.used == 0


def test_readers_that_stop_reading_cannot_take_more_than_the_budget(serve: Serve) -> None:
    server = serve(max_chunk="16MiB", receive_budget="20MiB")
    with Peer(server) as peer:
        peer.put("big", bytes(16 * MIB))
        assert peer.exists("big")
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(Peer(server, receive_buffer=4096)).send(header(GET, "big"))
        wait_until(lambda: server.counters["slow_readers"] + server.counters["slow_readers_cut"] == 4)
        assert server.counters["slow_readers_cut"] >= 2
        assert server.budget.peak <= server.budget.limit
        assert healthy(server)


#: Of a server that cuts nobody for being slow on a busy machine.
PATIENT = {"stall_timeout": 60, "min_rate": "64KiB"}


def test_a_reader_that_is_only_slow_gets_every_byte(serve: Serve) -> None:
    server = serve(max_chunk="8MiB", receive_budget="16MiB", **PATIENT)
    body = random.Random(7).randbytes(8 * MIB)  # nothing in it comes twice
    with Peer(server) as peer:
        peer.put("big", body)
        assert peer.exists("big")
    with Peer(server, receive_buffer=4096) as peer:
        peer.send(header(GET, "big"))
        wait_until(lambda: server.counters["slow_readers"] == 1)
        assert struct.unpack("<9i", peer.read(36))[1] == len(body)
        assert peer.read(len(body)) == body


@pytest.mark.parametrize("extended", [False, True], ids=["plain", "extended"])
def test_a_slow_reader_gets_the_chunk_it_asked_for_whatever_becomes_of_it(serve: Serve, extended: bool) -> None:
    backend = LMSLocalBackend()
    server = serve(backend, max_chunk="8MiB", receive_budget="32MiB", **PATIENT)
    body = random.Random(7).randbytes(8 * MIB)  # nothing in it comes twice
    with Peer(server) as peer:
        peer.put("big", body)
        assert peer.exists("big")
    with Peer(server, receive_buffer=4096) as slow:
        slow.send(encode_xrequest(XCommand.GET, "big") if extended else header(GET, "big"))
        wait_until(lambda: server.counters["slow_readers"] == 1)
        with Peer(server) as peer:
            for _ in range(3):
                peer.put("big", bytes(len(body)))
            assert peer.exists("big")
        backend.remove(OpaqueKey("big"))
        reply = slow.read(36)
        slow.read(struct.unpack("<4i", reply[:16])[2] if extended else 0)
        assert slow.read(len(body)) == body
    wait_until(lambda: server.budget.used == 0)


def test_receive_buffers_are_admitted_against_the_budget(serve: Serve) -> None:
    server = serve(receive_budget="2MiB", stall_timeout=60)
    with ExitStack() as stack:
        holders = [stack.enter_context(Peer(server)) for _ in range(2)]
        for peer in holders:
            peer.send(header(PUT, "held", MIB, 1, 6, (MIB, 0, 0, 0)) + bytes(1000))
        wait_until(lambda: server.budget.used == 2 * MIB)
        waiter = stack.enter_context(Peer(server))
        waiter.send(header(PUT, "waited", 10, 1, 6, (10, 0, 0, 0)) + b"0123456789" + header(GET, "waited"))
        wait_until(lambda: server.budget.waiting == 1)
        holders[0].reset()
        waiter.read(36)
        assert waiter.read(10) == b"0123456789"
        assert server.budget.peak == 2 * MIB


def test_long_keys_are_admitted_against_the_budget_too(serve: Serve) -> None:
    server = serve(max_chunk="64KiB", receive_budget="128KiB", stall_timeout=60)
    request = encode_xrequest(XCommand.EXIST, "k" * 60_000)
    with ExitStack() as stack:
        holders = [stack.enter_context(Peer(server)) for _ in range(3)]
        for peer in holders:
            peer.send(request[:1000])
        wait_until(lambda: server.budget.waiting == 1)
        assert server.budget.used <= server.budget.limit
        for peer in holders:
            peer.send(request[1000:])
        assert [peer.read(36)[:4] for peer in holders] == [struct.pack("<i", FAIL)] * 3
    wait_until(lambda: server.budget.used == 0)


def test_one_waiting_for_the_budget_may_leave(serve: Serve) -> None:
    server = serve(receive_budget="1MiB", stall_timeout=60)
    with Peer(server) as holder, Peer(server) as waiter:
        holder.send(header(PUT, "held", MIB) + bytes(1000))
        wait_until(lambda: server.budget.used == MIB)
        waiter.send(header(PUT, "waited", 10) + bytes(10))
        wait_until(lambda: server.budget.waiting == 1)
        waiter.reset()
        wait_until(lambda: (server.connections, server.budget.waiting) == (1, 0))
    wait_until(lambda: server.budget.used == 0)
    assert healthy(server)
