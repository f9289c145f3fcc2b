"""LMCache's headers: known bytes, round trips, and typed refusals."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lms_tiers.errors import InvalidChunkError, InvalidKeyError, ProtocolError
from lms_tiers.messages import ChunkMeta, ClientCommand, MemoryFormat, ServerReturnCode
from lms_tiers.wire import plain

KEYS = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=60).filter(
    lambda k: not k.endswith(" ") and len(k.encode()) < plain.KEY_BYTES
)
DTYPES = st.sampled_from([None, "float16", "bfloat16", "float32", "float64", "uint8", "float8_e4m3fn", "float8_e5m2"])
METAS = st.builds(
    ChunkMeta,
    st.integers(0, plain.MAX_LENGTH),
    st.sampled_from(MemoryFormat),
    DTYPES,
    st.tuples(*[st.integers(1, plain.MAX_LENGTH)] * 4),
)


def test_a_put_header_has_the_bytes_lmcache_writes() -> None:
    meta = ChunkMeta(64, MemoryFormat.KV_2LTD, "bfloat16", (2, 2, 4, 2))
    expected = struct.pack("<9i", 1, 64, 1, 3, 0, 2, 2, 4, 2) + b"m@1@0@1f@bfloat16".ljust(150)
    assert plain.encode_request(ClientCommand.PUT, "m@1@0@1f@bfloat16", meta) == expected
    assert len(expected) == 186


def test_the_reply_puts_the_location_last() -> None:
    meta = ChunkMeta(8, MemoryFormat.BINARY_BUFFER, None, (8, 0, 0, 0))
    reply = plain.encode_reply(ServerReturnCode.SUCCESS, meta)
    assert reply == struct.pack("<9i", 200, 8, 5, 0, 8, 0, 0, 0, 0)
    assert plain.reply_meta(plain.decode_reply(reply)) == meta


@given(KEYS, METAS)
def test_a_put_header_survives_the_round_trip(key: str, meta: ChunkMeta) -> None:
    request = plain.decode_request(plain.encode_request(ClientCommand.PUT, key, meta))
    assert (request.command, request.key, request.meta, request.length) == (ClientCommand.PUT, key, meta, meta.length)


@given(st.binary(min_size=186, max_size=186))
def test_any_bytes_are_a_request_or_a_protocol_error(data: bytes) -> None:
    try:
        request = plain.decode_request(data)
    except ProtocolError:
        return
    assert request.length >= 0
    assert request.fault or request.key is not None


@given(st.binary(max_size=400))
def test_a_header_of_another_size_is_a_protocol_error(data: bytes) -> None:
    if len(data) != 186:
        with pytest.raises(ProtocolError):
            plain.decode_request(data)
    if len(data) != 36:
        with pytest.raises(ProtocolError):
            plain.decode_reply(data)


@pytest.mark.parametrize("key", ["", "ends in a blank ", "k" * 151, "é" * 75, "é" * 76])
def test_a_key_that_the_field_cannot_hold_is_refused_never_cut(key: str) -> None:
    with pytest.raises(InvalidKeyError):
        plain.encode_key(key)


@pytest.mark.parametrize(
    "meta",
    [
        ChunkMeta(4, MemoryFormat.KV_2LTD, "int8", (4,)),
        ChunkMeta(4, MemoryFormat.KV_2LTD, "uint8", (1, 1, 1, 1, 4)),
        ChunkMeta(4, MemoryFormat.KV_2LTD, "uint8", (4, 0)),
        ChunkMeta(4, MemoryFormat.KV_2LTD, "uint8", ()),
        ChunkMeta(4, MemoryFormat.KV_2LTD, "uint8", (2**31,)),
        ChunkMeta(2**31, MemoryFormat.KV_2LTD, "uint8", (4,)),
        ChunkMeta(4, MemoryFormat.BINARY, "uint8", (4,)),
    ],
)
def test_metadata_that_would_come_back_otherwise_are_refused(meta: ChunkMeta) -> None:
    with pytest.raises(InvalidChunkError):
        plain.encode_request(ClientCommand.PUT, "k", meta)
    with pytest.raises(InvalidChunkError):
        plain.encode_reply(ServerReturnCode.SUCCESS, meta)


def test_only_a_health_request_with_the_mark_is_a_greeting() -> None:
    assert plain.decode_request(plain.encode_greeting()).greeting
    assert not plain.decode_request(plain.encode_request(ClientCommand.HEALTH, "k")).greeting
