"""LMCache's commands, answered byte for byte as its clients expect."""

from __future__ import annotations

import struct

from lms_tiers import ChunkMeta, LMSLocalBackend, MemoryFormat, OpaqueKey
from tests.server.conftest import Serve
from tests.server.peer import EXIST, FOUND, GET, HEALTH, LIST, MISS, PUT, SUCCESS, Peer, header

KEY = "meta/llama@8@3@-1f3a@bfloat16"


def test_a_chunk_comes_back_with_its_bytes_and_its_metadata(serve: Serve) -> None:
    with Peer(serve()) as peer:
        peer.send(header(PUT, KEY, 64, fmt=1, dtype=3, shape=(2, 2, 4, 2)) + bytes(range(64)))
        peer.send(header(GET, KEY))
        assert struct.unpack("<9i", peer.read(36)) == (SUCCESS, 64, 1, 3, 2, 2, 4, 2, 0)
        assert peer.read(64) == bytes(range(64))


def test_a_miss_exist_and_health_have_the_header_lmcache_sends(serve: Serve) -> None:
    with Peer(serve()) as peer:
        for command, answer in ((GET, MISS), (EXIST, MISS), (HEALTH, FOUND)):
            peer.send(header(command, KEY))
            assert peer.read(36) == answer
        peer.put(KEY, b"x")
        peer.send(header(EXIST, KEY))
        assert peer.read(36) == FOUND


def test_the_header_of_an_answer_arrives_in_one_piece(serve: Serve) -> None:
    with Peer(serve()) as peer:
        peer.put(KEY, bytes(300_000))
        for _ in range(50):
            peer.send(header(GET, KEY))
            assert len(peer.sock.recv(36)) == 36
            peer.read(300_000)


def test_short_shapes_and_binary_buffers_keep_their_dimensions(serve: Serve) -> None:
    with Peer(serve()) as peer:
        for fmt, dtype, shape in (
            (1, 2, (2, 3, 4, 0)),
            (5, 0, (24, 0, 0, 0)),
            (4, 6, (24, 0, 0, 0)),
            (0, 1, (6, 0, 0, 0)),
        ):
            peer.send(header(PUT, KEY, 24, fmt, dtype, shape) + bytes(24))
            peer.send(header(GET, KEY))
            reply = struct.unpack("<9i", peer.read(36))
            assert reply[4:8] == shape
            assert reply[3] == (2 if dtype == 1 else dtype)
            peer.read(24)


def test_an_empty_chunk_is_a_chunk(serve: Serve) -> None:
    with Peer(serve()) as peer:
        peer.put(KEY, b"")
        assert peer.get(KEY) == b""


def test_list_answers_the_keys_by_line(serve: Serve) -> None:
    with Peer(serve()) as peer:
        for key in ("a", "b", "c\nd"):
            peer.put(key, b"x")
        peer.send(header(LIST, ""))
        reply = struct.unpack("<9i", peer.read(36))
        assert reply[0] == SUCCESS
        assert sorted(peer.read(reply[1]).split(b"\n")) == [b"a", b"b"]


def test_any_text_is_a_key_and_only_blanks_at_its_end_are_padding(serve: Serve) -> None:
    with Peer(serve()) as peer:
        keys = ["a@b", " a@b", "A@B", "ключ", "e\u0301", "é", "\x00", "../../etc/passwd", "k" * 150, "k" * 149]
        for i, key in enumerate(keys):
            peer.put(key, bytes([i]))
        assert [peer.get(key) for key in keys] == [bytes([i]) for i in range(len(keys))]
        assert peer.get("a@b   ") == bytes([0])


def test_an_overwrite_replaces_the_chunk_whole(serve: Serve) -> None:
    with Peer(serve()) as peer:
        peer.put(KEY, b"old and long")
        peer.put(KEY, b"new")
        assert peer.get(KEY) == b"new"


def test_requests_sent_without_waiting_are_answered_in_order(serve: Serve) -> None:
    with Peer(serve()) as peer:
        frames = b""
        for i in range(200):
            frames += header(PUT, f"k{i}", 3, 1, 6, (3, 0, 0, 0)) + b"%03d" % i + header(GET, f"k{i}")
        peer.send(frames)
        for i in range(200):
            peer.read(36)
            assert peer.read(3) == b"%03d" % i


def test_what_is_put_through_the_wire_is_in_the_backend(serve: Serve) -> None:
    backend = LMSLocalBackend()
    with Peer(serve(backend)) as peer:
        peer.send(header(PUT, KEY, 8, 1, 3, (2, 2, 1, 0)) + b"12345678")
        assert peer.exists(KEY)
    obj = backend.get(OpaqueKey(KEY))
    assert obj is not None
    assert (bytes(obj.data), obj.length, obj.fmt, str(obj.dtype), tuple(obj.shape)) == (
        b"12345678", 8, MemoryFormat.KV_2LTD, "torch.bfloat16", (2, 2, 1),
    )  # fmt: skip


def test_a_chunk_that_lmcaches_header_cannot_tell_is_a_miss_for_lmcache(serve: Serve) -> None:
    backend = LMSLocalBackend()
    meta = ChunkMeta(5, MemoryFormat.KV_2LTD, "int8", (1, 1, 1, 1, 5))
    backend.put(meta.message(OpaqueKey("five")), bytearray(5))
    server = serve(backend)
    with Peer(server) as peer:
        assert peer.get("five") is None
        assert peer.exists("five")
    assert server.counters["bad_fields"] == 1
