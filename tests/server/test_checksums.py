"""What a server remembers of checksums: never believed by who compares, never told to who does not, never much."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
import xxhash

from lms_tiers import ChunkMeta, LMSLocalBackend, MemoryFormat, OpaqueKey
from lms_tiers.client.client import Client
from lms_tiers.server import checksums, extended
from lms_tiers.server.checksums import Checksums
from lms_tiers.server.server import Server
from lms_tiers.wire.extension import UNCHECKED, XCommand, XError, encode_xrequest
from tests.server.conftest import Serve
from tests.server.peer import Peer, wait_until

SIZE = 600_000
KEY = OpaqueKey("key")


def content(seed: int) -> bytes:
    return random.Random(seed).randbytes(SIZE)


def message() -> Any:
    return ChunkMeta(SIZE, MemoryFormat.KV_2LTD, "uint8", (1, 1, 1, SIZE)).message(KEY)


def asked(server: Server) -> int:
    """How often the server was asked for a chunk, by clients that have gone."""
    wait_until(lambda: server.connections == 0)
    return sum(server.counters.latency()["xget"][0])


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each chunk whose checksum a server computes for an answer."""
    lengths: list[int] = []

    def counted(data: Any) -> int:
        lengths.append(len(data))
        return xxhash.xxh3_64_intdigest(data)

    class Counting:
        xxh3_64_intdigest = staticmethod(counted)
        xxh3_64 = xxhash.xxh3_64

    monkeypatch.setattr(extended, "xxhash", Counting)
    return lengths


def test_a_chunk_is_not_read_for_the_checksum_that_it_came_with(serve: Serve, computed: list[int]) -> None:
    server = serve()
    with Client(server.address) as client:
        client.put(message(), bytearray(content(1)))
        for _ in range(3):
            found = client.get(KEY)
            assert found is not None
            assert found.data == content(1)
    assert asked(server) == 3
    assert computed == []


def test_the_chunk_that_took_its_place_meanwhile_is_asked_for_once_more_and_remembered(
    serve: Serve, computed: list[int]
) -> None:
    backend = LMSLocalBackend()
    server = serve(backend)
    with Client(server.address) as client:
        client.put(message(), bytearray(content(1)))
        backend.put(message(), bytearray(content(2)))  # not through this server
        for _ in range(2):
            found = client.get(KEY)
            assert found is not None
            assert found.data == content(2)
        buffer = bytearray(SIZE)
        backend.put(message(), bytearray(content(3)))
        assert client.get_many_into([(KEY, [buffer])]) == [ChunkMeta.of(message(), SIZE)]
        assert buffer == content(3)
        assert client.stats().corrupt == client.stats().failures == 0
    assert asked(server) == 2 + 1 + 2  # two for the first, as another chunk is there; one; two again
    assert computed == [SIZE, SIZE]


def test_who_asks_for_checked_bytes_is_told_what_they_are(serve: Serve) -> None:
    server = serve()
    with Client(server.address) as client:
        client.put(message(), bytearray(content(1)))
    server._checksums.note("key", SIZE, 7)

    def told(peer: Peer, argument: int) -> int:
        peer.send(encode_xrequest(XCommand.GET, "key", argument=argument))
        _, length, meta, _, checksum = struct.unpack("<4iQ12x", peer.read(36))
        peer.read(length + meta)
        return int(checksum)

    with Peer(server) as peer:
        assert told(peer, UNCHECKED) == 7
        assert told(peer, 0) == told(peer, UNCHECKED) == xxhash.xxh3_64_intdigest(content(1))


@pytest.mark.parametrize("at", [0, 262_143, 262_144, 524_288, SIZE - 1])
def test_a_chunk_that_is_damaged_in_any_piece_of_it_is_not_stored(serve: Serve, at: int) -> None:
    server = serve()
    body = bytearray(content(1))
    body[at] ^= 1
    request = encode_xrequest(
        XCommand.PUT, "key", ChunkMeta.of(message(), SIZE), checksum=xxhash.xxh3_64_intdigest(content(1))
    )
    with Peer(server) as peer:
        peer.send(request + body)
        code, _, _, error, _ = struct.unpack("<4iQ12x", peer.read(36))
        assert (code, error) == (400, XError.DAMAGED)
        assert not peer.exists("key")
        body[at] ^= 1
        for begin in range(0, len(request + body), 100_001):  # in parts that are no pieces, each waited for
            peer.send((request + body)[begin : begin + 100_001])
            if begin + 100_001 < len(request + body):
                wait_until(lambda: any(not session.idle for session in server._reactor._parked.copy().values()))
        assert struct.unpack("<4iQ12x", peer.read(36))[0] == 200
        assert peer.get("key") == content(1)
    assert server.counters["damaged"] == 1


def test_no_more_is_remembered_than_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "_MOST", 8)
    remembered = Checksums()
    for i in range(100):
        remembered.note(f"key {i}", SIZE, i)
    kept = [i for i in range(100) if remembered.of(f"key {i}") is not None]
    assert kept == list(range(100 - len(kept), 100))
    assert 8 <= len(kept) <= 16
    remembered.note("x" * 1000, SIZE, 1)
    remembered.note("small", 100, 1)
    assert remembered.of("x" * 1000) is remembered.of("small") is None
    remembered.note("key 99", SIZE, 5)
    assert remembered.of("key 99") == 5
