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

from lms_tiers.codecs.base import Codec, EncodedChunk, block_count, decode_into, encode_bound
from lms_tiers.codecs.builtin import make_codec
from lms_tiers.codecs.planes import MAX_BLOCK
from lms_tiers.codecs.workers import shared_executor
from lms_tiers.errors import CodecError, ConfigError, InvalidBufferError
from lms_tiers.messages import DTYPE_NAMES

Values: TypeAlias = Callable[..., bytes]

NAMES = ["raw", "zstd:1", "zstd:-3", "zstd:19", "planes", "auto"]


def decoded(encoded: EncodedChunk, length: int, **options: Any) -> bytes:
    out = bytearray(b"\xa5" * length)
    decode_into(encoded.layout, encoded.block_bytes, encoded.blocks, memoryview(out), **options)
    return bytes(out)


KINDS = [
    "bf16", "bf16 of every exponent", "bf16 with rare outliers", "bf16 with many zeros", "fp16", "fp32",
    "fp32 rounded to bf16", "fp64", "zeros", "noise", "text",
]  # fmt: skip


@pytest.fixture(params=NAMES)
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


@pytest.mark.parametrize("length", [0, 1, 511, 512, 513, 4096, 2**19 - 1, 2**19, 2**19 + 1])
def test_sizes_at_the_edges_come_back(codec: Codec, length: int, values: Values) -> None:
    data = values("bf16 with rare outliers", length // 2 + 1)[:length]
    for dtype in ("bfloat16", "float32", "float64", "int8", None):
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
    with ThreadPoolExecutor(3) as executor:
        for _ in range(3):
            encoded = codec.encode(data, "bfloat16", executor=executor)
            assert [bytes(block) for block in encoded.blocks] == want
            assert decoded(encoded, len(data), executor=executor) == data


def test_many_threads_share_one_codec(codec: Codec, values: Values) -> None:
    chunks = [values(kind, 40_000 + 17 * i, i) for i, kind in enumerate(KINDS)]

    def run(i: int) -> bool:
        data = chunks[i % len(chunks)]
        return decoded(codec.encode(memoryview(data), "bfloat16"), len(data)) == data

    with ThreadPoolExecutor(8) as executor:
        assert all(executor.map(run, range(48)))


def test_the_process_shares_one_executor(values: Values) -> None:
    executor = shared_executor()
    assert executor is shared_executor()
    data = values("bf16", 700_000)
    encoded = make_codec("planes").encode(memoryview(data), "bfloat16", executor=executor)
    assert decoded(encoded, len(data), executor=executor) == data


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
    assert stock.decompress(block[32 : 32 + frame]) == data


@pytest.mark.parametrize(
    ("kind", "dtype", "shift"), [("bf16 with rare outliers", "bfloat16", 7), ("fp16", "float16", 8)]
)
def test_a_planes_block_is_what_the_documentation_says(kind: str, dtype: str, shift: int, values: Values) -> None:
    words = np.frombuffer(values(kind, 4099), np.uint16)
    (encoded,) = make_codec("planes").encode(memoryview(words.tobytes()), dtype).blocks
    block = bytes(encoded)
    mode, padding, width, at, last = struct.unpack_from("<5B", block)
    assert (mode, width, at) == (1, 2, shift)
    frame, rest, *lanes = struct.unpack_from("<5I", block, 8)
    assert (rest, lanes) == (4096, [0, 0, 0])
    end = 32 + rest + frame
    plane = np.frombuffer(zstandard.ZstdDecompressor().decompress(block[32 + rest : end]), np.uint8)
    assert (plane == (words[:4096] >> shift).astype(np.uint8)).all()
    source = words[:4096].view(np.uint8)
    residual = source[:4096] ^ source[4095:-1] if shift == 7 else source[::2]
    assert block[32 : 32 + rest] == residual.tobytes()
    assert last == (source[-1] if shift == 7 else 0)
    assert block[end : end + 6] == words[4096:].tobytes()
    assert len(block) == end + 6 + padding
    assert not len(block) % 8
    assert not any(block[end + 6 :])


def test_noise_is_stored_raw_without_a_copy(values: Values) -> None:
    noise = memoryview(values("noise", 500_000))
    for dtype in DTYPE_NAMES:
        encoded = make_codec("auto").encode(noise, dtype)
        assert encoded.layout == "raw/1"
        assert all(np.shares_memory(np.frombuffer(b, np.uint8), np.frombuffer(noise, np.uint8)) for b in encoded.blocks)


@pytest.mark.parametrize(
    ("kind", "dtype", "layout"),
    [
        ("bf16", "bfloat16", "planes/2"), ("bf16", None, "planes/2"), ("bf16", "uint8", "planes/2"),
        ("fp16", "float16", "planes/2"), ("fp32", "float32", "planes/2"), ("text", None, "zstd/1"),
        ("text", "uint8", "zstd/1"), ("noise", "bfloat16", "raw/1"), ("zeros", "bfloat16", "planes/2"),
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
    for layout in ("planes/1", "planes/3", "zstd/9", "raw/0", "lz4/1", "", "planes"):
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
