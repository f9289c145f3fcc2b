"""What every codec keeps: any bytes come back, from any dtype, size and thread; the same bytes encode the same."""

from __future__ import annotations

import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lms_tiers.codecs.base import Codec, EncodedChunk, block_count, encode_bound
from lms_tiers.codecs.planes import MAX_BLOCK
from lms_tiers.codecs.workers import Crew
from lms_tiers.errors import CodecError, ConfigError, InvalidBufferError
from lms_tiers.messages import DTYPE_NAMES
from tests.codecs.coding import decode_into, make_codec
from tests.depth import some

Values: TypeAlias = Callable[..., bytes]

NAMES = ["raw", "zstd:1", "zstd:-3", "zstd:19", "planes", "auto"]
SLOW = "zstd:19"


def decoded(encoded: EncodedChunk, length: int, **options: Any) -> bytes:
    out = bytearray(b"\xa5" * length)
    decode_into(encoded.layout, encoded.block_bytes, encoded.blocks, memoryview(out), **options)
    return bytes(out)


KINDS = [
    "bf16", "bf16 of every exponent", "bf16 with rare outliers", "bf16 with many zeros", "fp16", "fp32",
    "fp32 rounded to bf16", "fp64", "fp64 rounded to fp32", "e4m3", "zeros", "noise", "text",
]  # fmt: skip


@pytest.fixture(params=some(NAMES, lambda name: name != SLOW))
def codec(request: pytest.FixtureRequest) -> Codec:
    return make_codec(request.param)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_bytes_comes_back_under_every_dtype(codec: Codec, kind: str, values: Values) -> None:
    data = values(kind, 9000)[:-3]
    for dtype in DTYPE_NAMES:
        encoded = codec.encode(memoryview(data), dtype)
        assert decoded(encoded, len(data)) == data, dtype


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    dtype=st.sampled_from(DTYPE_NAMES),
    data=st.one_of(
        st.binary(max_size=5000),
        st.tuples(st.sampled_from(KINDS), st.integers(1, 6000), st.integers(0, 9), st.integers(0, 31)),
    ),
)
def test_any_bytes_come_back(name: str, dtype: str | None, data: Any, values: Values) -> None:
    if not isinstance(data, bytes):
        data = values(*data[:3])[data[3] :]
    encoded = make_codec(name).encode(memoryview(data), dtype)
    assert decoded(encoded, len(data)) == data
    assert len(encoded.blocks) == block_count(len(data), encoded.block_bytes)
    assert all(len(block) for block in encoded.blocks)


@pytest.mark.parametrize("length", [0, 1, 1535, 1536, 1537, 4096, 2**19 - 1, 2**19, 2**19 + 1])
def test_sizes_at_the_edges_come_back(codec: Codec, length: int, values: Values) -> None:
    data = values("bf16 with rare outliers", length // 2 + 1)[:length]
    for dtype in ("bfloat16", "float32", "float64", "int8", "float8_e4m3fn", None):
        assert decoded(codec.encode(memoryview(data), dtype), length) == data


@pytest.mark.parametrize("length", [MAX_BLOCK - 1, MAX_BLOCK, MAX_BLOCK + 1, 3 * MAX_BLOCK + 7])
def test_sizes_at_the_edges_of_blocks_of_planes_come_back(length: int, values: Values) -> None:
    data = values("bf16 with rare outliers", length // 2 + 1)[:length]
    for dtype in DTYPE_NAMES:
        encoded = make_codec("planes").encode(memoryview(data), dtype)
        assert encoded.block_bytes <= MAX_BLOCK
        assert decoded(encoded, length) == data, dtype


def test_data_and_destination_may_lie_at_any_address(codec: Codec, values: Values) -> None:
    data = bytearray(b"?" + values("bf16", 30000))
    for at in (0, 1):
        source = memoryview(data)[at:]
        encoded = codec.encode(source, "bfloat16")
        for skew in (0, 1, 3):
            room = bytearray(len(source) + skew)
            decode_into(encoded.layout, encoded.block_bytes, encoded.blocks, memoryview(room)[skew:])
            assert room[skew:] == source


def test_the_same_bytes_encode_to_the_same_blocks_on_any_thread(codec: Codec, values: Values) -> None:
    data = memoryview(values("bf16 with rare outliers", 400_000))
    want = [bytes(block) for block in codec.encode(data, "bfloat16").blocks]
    with Crew(3) as crew:
        for _ in range(3):
            encoded = codec.encode(data, "bfloat16", crew=crew)
            assert [bytes(block) for block in encoded.blocks] == want
            assert decoded(encoded, len(data), crew=crew) == data


def test_many_threads_share_one_codec(codec: Codec, values: Values) -> None:
    chunks = [values(kind, 40_000 + 17 * i, i) for i, kind in enumerate(KINDS)]

    def run(i: int) -> bool:
        data = chunks[i % len(chunks)]
        return decoded(codec.encode(memoryview(data), "bfloat16"), len(data)) == data

    with ThreadPoolExecutor(8) as executor:
        assert all(executor.map(run, range(48)))


def test_scratch_is_used_and_too_small_a_one_is_refused(codec: Codec, values: Values) -> None:
    data = memoryview(values("bf16", 300_000))
    out = memoryview(bytearray(encode_bound(len(data))))
    assert decoded(codec.encode(data, "bfloat16", out=out), len(data)) == data
    if codec.plan(data, "bfloat16").bound(len(data)):
        with pytest.raises(InvalidBufferError, match="encode_bound"):
            codec.encode(data, "bfloat16", out=out[: len(data) // 2])
    with pytest.raises(InvalidBufferError):
        decode_into("raw/1", 1 << 20, [b"abcd"], memoryview(b"abcd"))


def test_no_block_outgrows_its_bound(codec: Codec, values: Values) -> None:
    for kind in KINDS:
        data = memoryview(values(kind, 20_001))
        form = codec.plan(data, "float32")
        blocks = codec.encode(data, "float32").blocks
        assert all(len(b) <= len(data) * 9 // 8 + 256 for b in blocks)
        assert form.bound(len(data)) <= len(data) * 9 // 8 + 256


def test_stock_zstd_reads_what_zstd_wrote_and_the_frames_of_planes(values: Values) -> None:
    data = values("bf16", 100_000)
    stock = zstandard.ZstdDecompressor()
    encoded = make_codec("zstd:3").encode(memoryview(data), None)
    assert b"".join(stock.decompress(block) for block in encoded.blocks) == data
    (block,) = make_codec("planes").encode(memoryview(data), "int8").blocks
    frame = int.from_bytes(block[8:12], "little")
    assert stock.decompress(block[16 : 16 + frame]) == data


@pytest.mark.parametrize(
    ("kind", "dtype", "shift"), [("bf16 with rare outliers", "bfloat16", 7), ("fp16", "float16", 8)]
)
def test_a_block_of_two_byte_values_is_what_the_documentation_says(
    kind: str, dtype: str, shift: int, values: Values
) -> None:
    words = np.frombuffer(values(kind, 4099), np.uint16)
    (encoded,) = make_codec("planes").encode(memoryview(words.tobytes()), dtype).blocks
    block = bytes(encoded)
    source = words[:4096].view(np.uint8)
    last = int(source[-1]) if shift == 7 else 0
    assert block[:8] == bytes([1, block[1], 2, shift, last, 0, 0, 0])
    plane, residual = taken_apart(block, words[4096:].tobytes())
    assert plane == (words[:4096] >> shift).astype(np.uint8).tobytes()
    assert residual == (source[:4096] ^ source[4095:-1] if shift == 7 else source[::2]).tobytes()


@pytest.mark.parametrize(("kind", "dtype", "width"), [("fp32", "float32", 4), ("fp64", "float64", 8)])
def test_a_block_of_wider_values_is_what_the_documentation_says(
    kind: str, dtype: str, width: int, values: Values
) -> None:
    data = values(kind, 9_001)[:18_001]
    (encoded,) = make_codec("planes").encode(memoryview(data), dtype).blocks
    block = bytes(encoded)
    assert block[:8] == bytes([1, block[1], width, 7, 0, 0, 0, 0])
    size = (len(data) + width - 1) // width // 64 * 64
    plane, residual = taken_apart(block, data[width * size - (width - 1) :])
    parts = [int.from_bytes(data[k * (size - 1) : k * (size - 1) + size], "little") for k in range(width)]
    noise = [int.from_bytes(residual[k * size : (k + 1) * size], "little") for k in range(width - 1)]
    assert noise == [parts[0] ^ part for part in parts[1:]]
    coded = 0
    for k, part in enumerate(parts):
        mask = 0xFF << (8 * width - 9) << 8 * k
        word = (mask | mask >> 8 * width) & (1 << 8 * width) - 1
        coded |= part & int.from_bytes(word.to_bytes(width, "little") * (size // width), "little")
    turned = coded >> 7 | (coded & 0x7F) << (8 * size - 7)
    assert plane == turned.to_bytes(size, "little")
    # But for the ends of parts, these are the exponents of the values.
    exponents = np.sort(np.frombuffer(data, np.dtype(f"<u{width}"), 2000) >> (8 * width - 9) & 0xFF)
    assert abs(np.sort(np.frombuffer(plane, np.uint8)).mean() - exponents.mean()) < 1


def taken_apart(block: bytes, tail: bytes) -> tuple[bytes, bytes]:
    """The coded plane of a block of planes, and its noise; what stands after them is checked."""
    frame, stored = struct.unpack_from("<2I", block, 8)
    end = 16 + stored + frame
    assert block[end : end + len(tail)] == tail
    assert len(block) == end + len(tail) + block[1]
    assert not len(block) % 8
    assert not any(block[end + len(tail) :])
    return zstandard.ZstdDecompressor().decompress(block[16 + stored : end]), block[16 : 16 + stored]


def test_a_block_of_nibbles_is_what_the_documentation_says(values: Values) -> None:
    data = values("e4m3", 5_000)
    (encoded,) = make_codec("planes").encode(memoryview(data), "float8_e4m3fn").blocks
    block = bytes(encoded)
    assert block[:8] == bytes([1, block[1], 1, 3, 0, 0, 0, 0])
    plane, noise = taken_apart(block, data[len(data) // 1536 * 1536 :])
    assert len(noise) == len(plane) == len(data) // 1536 * 768
    at = 0
    for row in range(len(plane) // 768):
        for i in range(768):
            first, second = data[1536 * row + i], data[1536 * row + 768 + i]
            second = second >> 4 | second << 4 & 0xFF
            assert plane[at] == first & 0x78 | second & 0x87
            assert noise[at] == first ^ second
            at += 1


def test_words_whose_low_half_is_zero_are_stored_as_narrower_ones(values: Values) -> None:
    for kind, dtype, width in (("fp32 rounded to bf16", "float32", 2), ("fp64 rounded to fp32", "float64", 4)):
        data = values(kind, 4_000)
        (encoded,) = make_codec("planes").encode(memoryview(data), dtype).blocks
        assert (encoded[2], encoded[5]) == (width, 1)
        assert len(encoded) < len(data) // 2
        late = bytearray(data)
        late[len(data) // 2 & ~7] = 1  # beyond what a sample shows
        (encoded,) = make_codec("planes").encode(memoryview(late), dtype).blocks
        assert encoded[5] == 0


def test_noise_is_stored_raw_without_a_copy(values: Values) -> None:
    noise = memoryview(values("noise", 500_000))
    for dtype in DTYPE_NAMES:
        encoded = make_codec("auto").encode(noise, dtype)
        assert encoded.layout == "raw/1"
        assert all(np.shares_memory(np.frombuffer(b, np.uint8), np.frombuffer(noise, np.uint8)) for b in encoded.blocks)


@pytest.mark.parametrize(
    ("kind", "dtype", "layout"),
    [
        ("bf16", "bfloat16", "planes/3"), ("bf16", None, "planes/3"), ("bf16", "uint8", "planes/3"),
        ("fp16", "float16", "planes/3"), ("fp32", "float32", "planes/3"), ("e4m3", "float8_e4m3fn", "planes/3"),
        ("text", None, "zstd/1"),
        ("text", "uint8", "zstd/1"), ("noise", "bfloat16", "raw/1"), ("zeros", "bfloat16", "planes/3"),
    ],
)  # fmt: skip
def test_auto_chooses_by_what_a_sample_gains(kind: str, dtype: str | None, layout: str, values: Values) -> None:
    assert make_codec("auto").encode(memoryview(values(kind, 200_000)), dtype).layout == layout


def test_zeros_and_rounded_values_take_next_to_nothing_or_a_third(values: Values) -> None:
    zeros = values("zeros", 500_000)
    assert make_codec("planes").encode(memoryview(zeros), "bfloat16").nbytes < len(zeros) // 50
    rounded = values("fp32 rounded to bf16", 200_000)
    assert make_codec("planes").encode(memoryview(rounded), "float32").nbytes < len(rounded) // 2


def test_unknown_names_and_arguments_are_told() -> None:
    with pytest.raises(ConfigError, match="planes"):
        make_codec("plains")
    for text in ("zstd:0", "zstd:23", "zstd:x", "raw:1", "auto:fast"):
        with pytest.raises(ConfigError):
            make_codec(text)


def test_layouts_of_other_versions_are_refused() -> None:
    for layout in ("planes/2", "planes/4", "zstd/9", "raw/0", "lz4/1", "", "planes"):
        with pytest.raises(CodecError):
            decode_into(layout, 4096, [b"x"], memoryview(bytearray(1)))
    for name in ("raw", "zstd", "planes", "auto"):
        with pytest.raises(CodecError):
            make_codec(name).open("other/1")


def test_real_kv_bytes_reach_the_ratio(shared: Path) -> None:
    path = shared / "kv" / "minilm_kv_bf16.safetensors"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    raw = path.read_bytes()
    data = raw[8 + int.from_bytes(raw[:8], "little") :]
    encoded = make_codec("auto").encode(memoryview(data), "bfloat16")
    assert len(data) / encoded.nbytes >= 1.49
