"""Chunks that the kernel sends from a tier's file, unread: to clients that check them, who ask once more in doubt."""

from __future__ import annotations

import os
import random
import ssl
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash

from lms_tiers import ChunkMeta, CreateStorageBackend, MemoryFormat, OpaqueKey
from lms_tiers.client.client import Client
from lms_tiers.server.server import Server
from lms_tiers.wire.extension import UNCHECKED, XCommand, encode_xrequest
from tests.server.conftest import Serve
from tests.server.peer import GET, Peer, header, wait_until

CERTIFICATES = Path(__file__).parent / "certificates"
PATIENT = {"max_chunk": "16MiB", "receive_budget": "64MiB", "stall_timeout": 60}
SIZES = {"empty": 0, "one": 1, "page": 4096, "odd": 123_457, "large": 3 << 20}


def content(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


def message(name: str, size: int) -> Any:
    return ChunkMeta(size, MemoryFormat.KV_2LTD, "uint8", (1, 1, 1, size)).message(OpaqueKey(name))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each call in which the kernel sent from a file."""
    counts: list[int] = []
    call = os.sendfile

    def counted(out: int, source: int, offset: int, count: int) -> int:
        now = call(out, source, offset, count)
        counts.append(now)
        return now

    monkeypatch.setattr(os, "sendfile", counted)
    return counts


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """A store of one lmdb tier whose chunks lie raw; the server that is given it closes it."""
    return CreateStorageBackend(f"lmdb:{tmp_path}/kv?capacity=64MiB&codec=raw&sync=none")


def fill(server: Server) -> None:
    with Client(server.address) as client:
        client.put_many([(message(name, size), bytearray(content(name, size))) for name, size in SIZES.items()])


def test_every_read_of_ours_is_sent_from_the_file_and_counted_as_any_hit(
    serve: Serve, store: Any, sent: list[int]
) -> None:
    server = serve(store, **PATIENT)
    fill(server)
    keys = [OpaqueKey(name) for name in SIZES]
    with Client(server.address) as client:
        assert [bytes(obj.data) for obj in client.get_many(keys) if obj] == [content(*item) for item in SIZES.items()]
        assert sum(sent) == sum(SIZES.values())
        one = bytearray(SIZES["odd"] + 5)
        assert client.get_into(OpaqueKey("odd"), one) == ChunkMeta.of(message("odd", SIZES["odd"]), SIZES["odd"])
        assert one == content("odd", SIZES["odd"]) + bytes(5)
        halves = [bytearray(2048), bytearray(2048)]
        assert client.get_many_into([(OpaqueKey("page"), halves), (OpaqueKey("absent"), halves)])[1] is None
        assert b"".join(halves) == content("page", 4096)
        assert sum(sent) == sum(SIZES.values()) + SIZES["odd"] + 4096
        assert client.get(OpaqueKey("absent")) is None
        assert client.stats().corrupt == client.stats().failures == 0
    wait_until(lambda: server.connections == 0)
    assert store.stats().hits == len(SIZES) + 2
    assert store.stats().misses == 2
    assert server.budget.used == 0


def test_who_does_not_check_is_sent_what_was_checked(serve: Serve, store: Any, sent: list[int]) -> None:
    server = serve(store, **PATIENT)
    fill(server)
    with Client(server.address, extension=False) as client:
        found = client.get(OpaqueKey("odd"))
        assert found is not None
        assert bytes(found.data) == content("odd", SIZES["odd"])
    with Peer(server) as older:
        for request in (encode_xrequest(XCommand.GET, "page"), header(GET, "page")):
            older.send(request)
            parts = struct.unpack("<4i", older.read(36)[:16])
            older.read(parts[2] if request[0] == XCommand.GET else 0)
            assert older.read(4096) == content("page", 4096)
    assert not sent


@pytest.mark.parametrize(
    "device",
    ["cpu?capacity=16MiB", "lmdb:{}/kv?capacity=64MiB&codec=zstd", "cpu?capacity=16MiB > lmdb:{}/kv?capacity=64MiB"],
)
def test_what_lies_elsewhere_or_encoded_or_may_rise_is_read(
    serve: Serve, tmp_path: Path, sent: list[int], device: str
) -> None:
    server = serve(CreateStorageBackend(device.format(tmp_path)), **PATIENT)
    plain = {name: bytes(size) for name, size in SIZES.items()}
    with Client(server.address) as client:
        client.put_many([(message(name, len(data)), bytearray(data)) for name, data in plain.items()])
        assert [bytes(obj.data) for obj in client.get_many(list(map(OpaqueKey, plain))) if obj] == list(plain.values())
    assert all(count <= 1 for count in sent), "one byte becomes no smaller"


def test_behind_tls_chunks_pass_through_the_process(serve: Serve, store: Any, sent: list[int]) -> None:
    server = serve(
        store, tls_cert=str(CERTIFICATES / "server.pem"), tls_key=str(CERTIFICATES / "server.key"), **PATIENT
    )
    context = ssl.create_default_context(cafile=str(CERTIFICATES / "ca.pem"))
    with Client(f"localhost:{server.port}", tls=context) as client:
        client.put(message("odd", SIZES["odd"]), bytearray(content("odd", SIZES["odd"])))
        found = client.get(OpaqueKey("odd"))
        assert found is not None
        assert bytes(found.data) == content("odd", SIZES["odd"])
    assert not sent


def test_what_is_overwritten_on_its_way_is_asked_for_once_more(
    serve: Serve, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(store, **PATIENT)
    fill(server)
    send, get = os.sendfile, store.get
    restore: list[Callable[[], object]] = []

    def overwriting(out: int, fd: int, offset: int, count: int) -> int:
        kept = os.pread(fd, 7, offset)
        writable = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        os.pwrite(writable, bytes(byte ^ 255 for byte in kept), offset)
        restore.extend([lambda: os.close(writable), lambda: os.pwrite(writable, kept, offset)])
        return send(out, fd, offset, count)

    def restoring(key: Any) -> Any:
        while restore:
            restore.pop()()
        return get(key)

    monkeypatch.setattr(os, "sendfile", overwriting)
    monkeypatch.setattr(store, "get", restoring)
    with Client(server.address) as client:
        found = client.get_many([OpaqueKey(name) for name in ("odd", "absent", "page")])
        assert [None if obj is None else bytes(obj.data) for obj in found] == [
            content("odd", SIZES["odd"]), None, content("page", SIZES["page"])
        ]  # fmt: skip
        assert client.stats().corrupt == 0
    assert not restore


def test_damage_on_the_medium_is_a_miss_and_the_chunk_is_dropped(
    serve: Serve, store: Any, tmp_path: Path, sent: list[int]
) -> None:
    server = serve(store, **PATIENT)
    fill(server)
    data = tmp_path / "kv" / "data"
    whole, wanted = data.read_bytes(), content("odd", SIZES["odd"])
    at = whole.index(wanted[:4096])
    with data.open("r+b") as file:
        file.seek(at + 99)
        file.write(bytes([wanted[99] ^ 1]))
    with Client(server.address) as client:
        slots = [[bytearray(size)] for size in SIZES.values()]
        spoiled: set[int] = set()
        requests = list(zip(map(OpaqueKey, SIZES), slots, strict=True))
        found = client.get_many_into(requests, spoiled=spoiled)
        assert [meta is None for meta in found] == [name == "odd" for name in SIZES]
        assert spoiled == {list(SIZES).index("odd")}
        assert not client.contains(OpaqueKey("odd"))
    assert sent


def test_a_file_cut_short_costs_what_lay_behind_the_cut(
    serve: Serve, store: Any, tmp_path: Path, sent: list[int]
) -> None:
    server = serve(store, **PATIENT)
    fill(server)
    data = tmp_path / "kv" / "data"
    at = data.read_bytes().index(content("large", SIZES["large"])[:4096])
    os.truncate(data, at + 8192)
    with Client(server.address) as client:
        before = [name for name in SIZES if name != "large"]
        found = client.get_many([OpaqueKey(name) for name in ("large", *before)])
        assert found[0] is None
        for name, obj in zip(before, found[1:], strict=True):
            held = data.read_bytes().find(content(name, SIZES[name])) >= 0
            assert (obj is not None and bytes(obj.data) == content(name, SIZES[name])) or not held
    assert sent


def test_a_slow_reader_gets_the_chunk_it_asked_for_whatever_becomes_of_it(
    serve: Serve, tmp_path: Path, sent: list[int]
) -> None:
    store = CreateStorageBackend(f"lmdb:{tmp_path}/kv?capacity=64MiB&codec=raw&sync=none")
    server = serve(store, **PATIENT)
    body = content("big", 16 << 20)
    with Client(server.address) as client, Peer(server, receive_buffer=4096) as slow:
        client.put(message("big", len(body)), bytearray(body))
        slow.send(encode_xrequest(XCommand.GET, "big", argument=UNCHECKED))
        wait_until(lambda: server.counters["slow_readers"] == 1)
        assert 0 < server.budget.used < len(body) + 100
        for number in range(6):
            # Each pushes out what was there, and the next one is written over it.
            client.put(message("big", len(body)), bytearray(content(f"other{number}", len(body))))
        reply = slow.read(36)
        _, _, meta_bytes, _, checksum = struct.unpack("<4iQ", reply[:24])
        slow.read(meta_bytes)
        got = slow.read(len(body))
        # What the kernel had taken may have changed under it, and the checksum tells; what was left has not.
        assert got == body or xxhash.xxh3_64_intdigest(got) != checksum
        assert checksum == xxhash.xxh3_64_intdigest(body)
        assert got[-(4 << 20) :] == body[-(4 << 20) :]
    wait_until(lambda: server.connections == 0)
    assert server.budget.used == 0
    assert sent
