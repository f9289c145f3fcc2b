"""Damaged blocks: a typed error or exact length, never a crash, and nothing written outside the destination."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lms_tiers.codecs.base import Buffer, EncodedChunk
from lms_tiers.errors import CodecError
from tests.codecs.coding import decode_into, make_codec

Values: TypeAlias = Callable[..., bytes]
Case: TypeAlias = tuple[str, str, str | None]

CASES = [
    ("raw", "bf16", None), ("zstd:1", "text", None), ("planes", "bf16", "int8"), ("planes", "noise", "int8"),
    ("planes", "bf16 with rare outliers", "bfloat16"), ("planes", "bf16 with many zeros", "bfloat16"),
    ("planes", "fp16", "float16"), ("planes", "fp32", "float32"), ("planes", "fp32 rounded to bf16", "float32"),
    ("planes", "fp64", "float64"), ("planes", "e4m3", "float8_e4m3fn"),
]  # fmt: skip


def case(values: Values, name: str, kind: str, dtype: str | None) -> tuple[bytes, EncodedChunk]:
    data = values(kind, 6000)[:-5]
    return data, make_codec(name).encode(memoryview(data), dtype)


def attempt(encoded: EncodedChunk, blocks: list[Buffer], length: int) -> bytes | None:
    """What decoding gives, or None for a `CodecError`; the bytes around the destination stay as they are."""
    room = bytearray(b"\x5a" * (length + 64))
    try:
        decode_into(encoded.layout, encoded.block_bytes, blocks, memoryview(room)[32 : 32 + length])
    except CodecError:
        return None
    finally:
        assert room[:32] == room[32 + length :] == b"\x5a" * 32
    return bytes(room[32 : 32 + length])


@pytest.mark.parametrize("params", CASES, ids=lambda p: f"{p[0]} {p[1]} as {p[2]}")
def test_flipped_bits_give_an_error_or_bytes_of_the_right_length(params: Case, values: Values) -> None:
    data, encoded = case(values, *params)
    rng = random.Random(5)
    block = bytes(encoded.blocks[0])
    spots = [*range(min(len(block), 24)), *(rng.randrange(len(block)) for _ in range(150))]
    for spot in spots:
        for bit in (1 << rng.randrange(8), 0xFF):
            bad = bytearray(block)
            bad[spot] ^= bit
            got = attempt(encoded, [bad], len(data))
            assert got is None or len(got) == len(data)


@pytest.mark.parametrize("params", CASES, ids=lambda p: f"{p[0]} {p[1]} as {p[2]}")
def test_truncated_and_lengthened_blocks_are_errors(params: Case, values: Values) -> None:
    data, encoded = case(values, *params)
    block = bytes(encoded.blocks[0])
    cuts = {0, 1, 2, 15, 16, 17, 20, len(block) // 2, len(block) - 4, len(block) - 1}
    for cut in cuts:
        assert attempt(encoded, [block[:cut]], len(data)) is None, cut
    for junk in (b"\x00", b"junk", block):
        assert attempt(encoded, [block + junk], len(data)) is None


@pytest.mark.parametrize("params", CASES, ids=lambda p: f"{p[0]} {p[1]} as {p[2]}")
def test_a_destination_of_another_length_is_an_error(params: Case, values: Values) -> None:
    data, encoded = case(values, *params)
    for length in (0, 1, len(data) - 64, len(data) - 1, len(data) + 1, len(data) + 64, 10 * len(data)):
        assert attempt(encoded, list(encoded.blocks), length) is None, length


def test_missing_extra_and_swapped_blocks_never_change_the_length(values: Values) -> None:
    data = values("bf16", 2_000_000)
    encoded = make_codec("planes").encode(memoryview(data), "bfloat16")
    blocks = list(encoded.blocks)
    assert len(blocks) > 2
    assert attempt(encoded, blocks[1:], len(data)) is None
    assert attempt(encoded, [*blocks, blocks[0]], len(data)) is None
    assert attempt(encoded, [*blocks[:-1], b""], len(data)) is None
    for size in (0, -64, 63, 1000):
        with pytest.raises(CodecError):
            decode_into(encoded.layout, size, blocks, memoryview(bytearray(len(data))))


@settings(max_examples=200, deadline=None)
@given(
    layout=st.sampled_from(["raw/1", "zstd/1", "planes/3"]),
    head=st.sampled_from(
        [
            b"",
            bytes(8),
            b"\x01\x00\x01\x00",
            b"\x01\x00\x02\x07",
            b"\x01\x00\x02\x08",
            b"\x01\x00\x04\x07",
            b"\x01\x00\x01\x03",
            b"\x01\x00\x02\x07\x00\x01",
        ]
    ),
    junk=st.binary(max_size=300),
    length=st.integers(0, 5000),
)
def test_arbitrary_bytes_never_crash(layout: str, head: bytes, junk: bytes, length: int) -> None:
    attempt(EncodedChunk(layout, 8192, []), [head + junk], length)


@pytest.mark.parametrize("claim", [0, 1, 2**20, 2**40, 2**63])
def test_a_frame_that_claims_another_size_is_refused_before_memory_is_taken(claim: int) -> None:
    frame = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", claim) + b"\x03\x00\x00" + b"x"
    head = struct.pack("<6B2x2I", 1, -len(frame) % 8, 1, 0, 0, 0, len(frame), 0)
    for layout, block in (("zstd/1", frame), ("planes/3", head + frame + bytes(-len(frame) % 8))):
        with pytest.raises(CodecError):
            decode_into(layout, 4096, [block], memoryview(bytearray(4000)))


def test_headers_that_no_encoder_writes_are_refused(values: Values) -> None:
    data, encoded = case(values, "planes", "bf16 with rare outliers", "bfloat16")
    block = bytes(encoded.blocks[0])
    assert attempt(encoded, [block], len(data)) == data
    edits = [
        (0, 2), (0, 255), (1, 8), (2, 0), (2, 1), (2, 3), (2, 4), (2, 16), (3, 0), (3, 3), (3, 6), (3, 9), (5, 1), (5, 2),
        (12, 255), (14, 1),
    ]  # fmt: skip
    for at, value in edits:
        bad = bytearray(block)
        bad[at] = value
        assert attempt(encoded, [bad], len(data)) is None, (at, value)


def test_padding_is_zero(values: Values) -> None:
    padded = 0
    for cut in range(8):
        data = values("bf16", 6000)[: 12_000 - cut]
        encoded = make_codec("planes").encode(memoryview(data), "bfloat16")
        block = bytearray(encoded.blocks[0])
        frame, noise = struct.unpack_from("<2I", block, 8)
        end = 16 + frame + noise + len(data) - 2 * noise
        assert len(block) == end + block[1]
        if len(block) > end:
            padded += 1
            block[-1] = 1
            assert attempt(encoded, [block], len(data)) is None
    assert padded
