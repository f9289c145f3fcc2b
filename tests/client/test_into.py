"""Chunks straight from the socket into callers' buffers, in one round trip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from lms_tiers import ChunkMeta, LMSLocalBackend, MemoryFormat, OpaqueKey
from lms_tiers.client.client import Client
from lms_tiers.client.connection import Connection
from lms_tiers.server.server import Server
from tests.client.test_client import start


@pytest.fixture
def server() -> Iterator[Server]:
    with LMSLocalBackend() as backend:
        for i in range(40):
            meta = ChunkMeta(100 + i, MemoryFormat.KV_2LTD, "uint8", (1, 1, 1, 100 + i))
            backend.put(meta.message(OpaqueKey(f"k{i}")), bytearray([i]) * (100 + i))
        with start(backend) as made:
            yield made


@pytest.fixture(params=[True, False], ids=["ours", "LMCache's"])
def client(server: Server, request: pytest.FixtureRequest) -> Iterator[Client]:
    with Client(server.address, extension=request.param) as made:
        yield made


def test_a_batch_is_asked_for_at_once_and_each_chunk_lands_in_its_buffers(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends: list[int] = []
    send = Connection.send

    def counted(self: Connection, buffers: Any) -> None:
        sends.extend([len(buffers)] if buffers else [])
        send(self, buffers)

    client.contains(OpaqueKey("k0"))  # the connection is made
    monkeypatch.setattr(Connection, "send", counted)
    slots: list[list[Any]] = [[bytearray(70), memoryview(bytearray(0)), bytearray(90)] for _ in range(30)]
    found = client.get_many_into([(OpaqueKey(f"k{i}"), slots[i]) for i in range(30)])
    assert [meta.length for meta in found if meta] == [100 + i for i in range(30)]
    for i, slot in enumerate(slots):
        assert b"".join(slot) == bytes([i]) * (100 + i) + bytes(60 - i)
    assert len(sends) == 1, "a round trip a batch, not one a chunk"


def test_what_is_absent_not_as_expected_or_too_large_leaves_its_buffers(client: Client) -> None:
    slots = [bytearray(b"." * size) for size in (200, 200, 101, 200)]
    keys = [OpaqueKey("absent"), OpaqueKey("k1"), OpaqueKey("k2"), OpaqueKey("k3")]
    right = ChunkMeta(103, MemoryFormat.KV_2LTD, "uint8", (1, 1, 1, 103))
    expected = [None, replace(right, length=101), None, right]
    spoiled: set[int] = set()
    requests = [(key, [slot]) for key, slot in zip(keys, slots, strict=True)]
    found = client.get_many_into(requests, expected=expected, spoiled=spoiled)
    assert found == [None, None, None, right]
    assert [set(slot) for slot in slots[:3]] == [{ord(".")}] * 3
    assert slots[3] == bytes([3]) * 103 + b"." * 97
    assert not spoiled
    assert client.get_many_into([(keys[1], [bytes(200)]), (keys[3], [slots[0]])])[0] is None, "it is read-only"


def test_bytes_damaged_on_their_way_are_none_and_their_buffer_is_called_spoiled(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_into = Connection.read_into

    def damaging(self: Connection, view: memoryview) -> None:
        read_into(self, view)
        if len(view) == 105:
            view[50] ^= 1

    monkeypatch.setattr(Connection, "read_into", damaging)
    slots = [bytearray(200) for _ in range(3)]
    spoiled: set[int] = set()
    with Client(server.address) as client:
        found = client.get_many_into([(OpaqueKey(f"k{4 + i}"), [slots[i]]) for i in range(3)], spoiled=spoiled)
        assert [meta is not None for meta in found] == [True, False, True]
        assert spoiled == {1}
        assert client.stats().corrupt == 1


def test_a_server_that_goes_answers_none_for_the_rest(server: Server, client: Client) -> None:
    assert client.contains(OpaqueKey("k0"))
    server.close()
    slots = [bytearray(b"." * 200) for _ in range(3)]
    assert client.get_many_into([(OpaqueKey(f"k{i}"), [slots[i]]) for i in range(3)]) == [None] * 3
    assert [set(slot) for slot in slots] == [{ord(".")}] * 3
