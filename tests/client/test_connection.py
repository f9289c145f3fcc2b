"""A connection: no socket is left behind where none comes about, and bytes come whole however they are cut."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import xxhash

from lms_tiers import ChunkMeta, LMSLocalBackend, MemoryFormat, OpaqueKey
from lms_tiers.client.address import Address
from lms_tiers.client.client import Client
from lms_tiers.client.connection import AHEAD, Connection
from lms_tiers.server.server import Server
from lms_tiers.server.settings import make_settings


def test_a_server_that_hangs_up_before_it_is_asked_for_its_address_leaves_no_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with contextlib.closing(socket.socket()) as gone:  # as a socket is whose peer is gone: connected to nobody
        monkeypatch.setattr(Address, "connect", lambda *_: gone)
        with pytest.raises(OSError, match="not connected"):
            Connection(Address("localhost", 1), 60.0, 60.0)
        assert gone.fileno() == -1


@contextlib.contextmanager
def connected() -> Iterator[tuple[Connection, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = Connection(Address("127.0.0.1", listener.getsockname()[1]), 60.0, 60.0)
        with contextlib.closing(connection), listener.accept()[0] as peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield connection, peer


@pytest.mark.parametrize("seed", range(12))
def test_bytes_come_in_order_and_whole_however_they_are_sent_and_read(seed: int) -> None:
    draw = random.Random(seed)
    sizes = [draw.choice([0, 1, 36, 150, AHEAD - 1, AHEAD, AHEAD + 1, 100_000, 600_000]) for _ in range(60)]
    stream = draw.randbytes(sum(sizes))
    cuts = sorted(draw.choices(range(len(stream)), k=draw.choice([0, 3, 200])))

    with connected() as (connection, peer):

        def send() -> None:
            for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
                peer.sendall(stream[begin:end])

        sender = threading.Thread(target=send)
        sender.start()
        at = 0
        for size in sizes:
            expected = stream[at : at + size]
            way = draw.choice(["read", "into", "checked", "skip"])
            if way == "read":
                assert connection.read(size) == expected
            elif way == "skip":
                connection.skip(size)
            else:
                place, digest = bytearray(size), xxhash.xxh3_64() if way == "checked" else None
                connection.read_into(memoryview(place), digest)
                assert place == expected
                assert digest is None or digest.digest() == xxhash.xxh3_64_digest(expected)
            at += size
        sender.join()


@pytest.mark.parametrize("seed", range(4))
def test_everything_is_sent_in_order_where_the_peer_takes_it_in_parts(seed: int) -> None:
    draw = random.Random(seed)
    buffers = [draw.randbytes(draw.choice([0, 1, 186, 70_000, 3_000_000])) for _ in range(draw.choice([1, 5, 1500]))]
    buffers = buffers if len(buffers) < 1000 else [buffer[:200] for buffer in buffers]
    whole = b"".join(buffers)
    with connected() as (connection, peer):
        got = bytearray()

        def take() -> None:
            while len(got) < len(whole):
                got.extend(peer.recv(50_000))

        reader = threading.Thread(target=take)
        reader.start()
        connection.send(buffers)
        reader.join()
    assert got == whole


def test_what_was_read_ahead_is_there_after_the_server_has_gone_and_nothing_more() -> None:
    with connected() as (connection, peer):
        peer.sendall(b"head" + bytes(1000))
        peer.shutdown(socket.SHUT_WR)
        connection.until = time.monotonic() + 60
        assert connection.read(4) == b"head"
        connection.read_into(memoryview(bytearray(1000)))
        with pytest.raises(ConnectionResetError):
            connection.read(1)


def test_a_small_request_is_one_send_and_one_receive(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(Connection, "_receive", _counted(calls, "receive", Connection._receive))
    monkeypatch.setattr(Connection, "_send_some", _counted(calls, "send", Connection._send_some))
    message = ChunkMeta(8192, MemoryFormat.KV_2LTD, "uint8", (1, 1, 1, 8192)).message(OpaqueKey("key"))
    with (
        LMSLocalBackend() as backend,
        Server(backend, make_settings(None, {"port": 0})) as server,
        Client(server.address) as client,
    ):
        for ask in (
            lambda: client.put(message, bytearray(8192)), lambda: client.get(message.key),
            lambda: client.contains(message.key), lambda: client.remove(message.key),
        ):  # fmt: skip
            calls.clear()
            ask()
            assert calls == ["send", "receive"]


def _counted(calls: list[str], name: str, call: Any) -> Any:
    def counting(*arguments: Any) -> Any:
        calls.append(name)
        return call(*arguments)

    return counting


def test_buffers_of_longer_items_are_sent_whole_where_not_all_go_at_once() -> None:
    numbers = memoryview(bytearray(range(240))).cast("I")
    with connected() as (connection, peer):
        connection.send([numbers] * 1200)
        connection.close()
        found = b"".join(iter(lambda: peer.recv(4096), b""))
    assert found == bytes(range(240)) * 1200
