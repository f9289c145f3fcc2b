"""The extension's frames: round trips, limits, and typed refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lms_tiers.errors import InvalidKeyError, LmsTiersError, ProtocolError
from lms_tiers.messages import DTYPE_NAMES, ChunkMeta, MemoryFormat, ServerReturnCode
from lms_tiers.wire import extension, plain
from lms_tiers.wire.extension import XCommand

KEYS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=400)
METAS = st.builds(
    ChunkMeta,
    st.integers(0, plain.MAX_LENGTH),
    st.sampled_from(MemoryFormat),
    st.sampled_from(DTYPE_NAMES),
    st.lists(st.integers(0, 2**63 - 1), max_size=12).map(tuple),
)
SIZE = plain.CLIENT_HEADER.size


@given(KEYS, METAS, st.integers(0, 2**31 - 1), st.integers(0, 2**64 - 1))
def test_a_put_survives_the_round_trip_whatever_key_and_metadata(
    key: str, meta: ChunkMeta, batch: int, checksum: int
) -> None:
    frame = extension.encode_xrequest(XCommand.PUT, key, meta, argument=batch, checksum=checksum)
    assert extension.is_extension(frame[:SIZE])
    request = extension.decode_xrequest(frame[:SIZE])
    assert len(frame) == SIZE + request.tail_bytes
    assert (request.argument, request.checksum, request.length) == (batch, checksum, meta.length)
    assert extension.decode_xnames(request, frame[SIZE:]) == (key, meta)


@given(st.sampled_from(list(XCommand)), st.binary(min_size=182, max_size=182), st.binary(max_size=100))
def test_any_bytes_are_a_request_or_a_typed_error(command: XCommand, rest: bytes, tail: bytes) -> None:
    header = int(command).to_bytes(4, "little") + rest
    try:
        request = extension.decode_xrequest(header)
        assert request.tail_bytes >= 0
        extension.decode_xnames(request, tail)
    except LmsTiersError:
        return


@given(st.lists(st.tuples(KEYS, METAS | st.none(), st.integers(0, 2**63)), max_size=8))
def test_lists_survive_the_round_trip(entries: list[tuple[str, ChunkMeta | None, int]]) -> None:
    body = extension.encode_entries((k, m.pack() if m else b"", n) for k, m, n in entries)
    assert list(extension.decode_entries(body)) == entries


@given(st.binary(max_size=200))
def test_any_list_is_read_or_a_protocol_error(body: bytes) -> None:
    try:
        list(extension.decode_entries(body))
    except ProtocolError:
        return


def test_a_reply_survives_the_round_trip() -> None:
    head = extension.encode_xreply(ServerReturnCode.SUCCESS, 7, meta=b"12", checksum=2**64 - 1)
    reply = extension.decode_xreply(head[:36])
    assert (reply.length, reply.meta_bytes, reply.checksum, head[36:]) == (7, 2, 2**64 - 1, b"12")
    with pytest.raises(ProtocolError):
        extension.decode_xreply(b"\0" * 36)


def test_a_key_above_the_limit_is_refused() -> None:
    with pytest.raises(InvalidKeyError):
        extension.encode_xrequest(XCommand.GET, "k" * 65536)
