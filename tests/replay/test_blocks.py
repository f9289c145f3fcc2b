"""Block bytes: a pure function of the id, unlike one another everywhere, and as compressible as real KV."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import zstandard
from numpy.typing import NDArray

from lms_tiers.errors import ConfigError
from lms_tiers.replay.blocks import BlockBytes

SIZE = 256 * 1024
REAL = Path(os.environ.get("LMS_TIERS_SHARED", Path(__file__).parents[3] / "shared"), "kv/minilm_kv_bf16.safetensors")


@pytest.fixture(scope="module")
def blocks() -> BlockBytes:
    return BlockBytes(SIZE)


def entropy(plane: NDArray[np.uint8]) -> float:
    counts = np.bincount(plane)
    shares = counts[counts > 0] / len(plane)
    return float(-(shares * np.log2(shares)).sum())


def planes(data: bytes | bytearray) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    values = np.frombuffer(data, np.uint16)
    exponents = ((values >> 7) & 0xFF).astype(np.uint8)
    rest = ((values & 0x7F) | ((values >> 15) << 7)).astype(np.uint8)
    return exponents, rest


def test_bytes_depend_on_id_and_seed_alone(blocks: BlockBytes) -> None:
    again = BlockBytes(SIZE)
    assert again.make(41) == blocks.make(41)
    assert again.make("41") != blocks.make(41)
    assert again.make(42) != blocks.make(41)
    assert BlockBytes(SIZE, seed=1).make(41) != blocks.make(41)


def test_a_version_of_this_package_reads_what_another_wrote() -> None:
    # Stores outlive versions: other bytes for the same id would be reported as wrong ones.
    assert bytes(BlockBytes(64).make(7)).hex() == (
        "1b3f6f3ec4bec4be82bf76be063ebc3f65bf8a3b4ebe75beefbf8f3f1a3f1dbf"
        "c73f92bf5e3f7cbf13bfd6be673e0f3b253d4c3f75bea7be354090bfb33ef7be"
    )


def test_no_line_of_a_block_stands_in_another_or_elsewhere_in_it(blocks: BlockBytes) -> None:
    lines: set[bytes] = set()
    for block in range(64):
        data = bytes(blocks.make(block))
        lines.update(data[i : i + 64] for i in range(0, SIZE, 64))
    assert len(lines) == 64 * SIZE // 64


def test_a_block_matches_itself_and_nothing_near_it(blocks: BlockBytes) -> None:
    data = blocks.make(5)
    assert blocks.matches(5, data)
    assert blocks.matches(5, memoryview(data).toreadonly())
    assert not blocks.matches(6, data)
    assert not blocks.matches(5, data[:-8])
    assert not blocks.matches(5, data + bytes(8))
    for position in (0, 1, SIZE // 2, SIZE - 1):
        torn = bytearray(data)
        torn[position] ^= 1
        assert not blocks.matches(5, torn)


def test_a_page_of_another_block_or_another_place_is_found(blocks: BlockBytes) -> None:
    data, other = blocks.make(5), blocks.make(6)
    for page in range(0, SIZE, 4096):
        mixed = bytearray(data)
        mixed[page : page + 4096] = other[page : page + 4096]
        assert not blocks.matches(5, mixed)
        moved = bytearray(data)
        moved[page : page + 4096] = data[page - 4096 : page] if page else data[-4096:]
        assert not blocks.matches(5, moved)


def test_values_are_finite(blocks: BlockBytes) -> None:
    exponents, _ = planes(blocks.make(1))
    assert exponents.max() < 0xFF


def test_planes_compress_as_those_of_real_kv(blocks: BlockBytes) -> None:
    for block in range(8):
        exponents, rest = planes(blocks.make(block))
        assert 1.45 <= 16 / (8 + entropy(exponents)) <= 1.52
        assert entropy(rest) > 7.97


def test_general_compression_finds_no_more_than_in_real_kv(blocks: BlockBytes) -> None:
    many = b"".join(bytes(blocks.make(block)) for block in range(16))
    exponents, _ = planes(many)
    far = zstandard.ZstdCompressionParameters.from_level(6, window_log=24, enable_ldm=True)
    packed = zstandard.ZstdCompressor(compression_params=far).compress(exponents.tobytes())
    # Nothing repeats from block to block: long matches bring no more than the entropy of single values allows.
    assert len(exponents) / len(packed) < 1.02 * 8 / entropy(exponents)
    assert 1.2 < len(many) / len(zstandard.ZstdCompressor(level=1).compress(many)) < 1.35


@pytest.mark.skipif(not REAL.exists(), reason=f"no real KV tensors at {REAL}")
def test_exponents_have_the_entropy_of_the_real_tensors(blocks: BlockBytes) -> None:
    data = REAL.read_bytes()
    (header,) = struct.unpack_from("<Q", data)
    assert {t["dtype"] for t in json.loads(data[8 : 8 + header]).values()} == {"BF16"}
    real, _ = planes(data[8 + header :])
    made, _ = planes(b"".join(bytes(blocks.make(block)) for block in range(16)))
    assert math.isclose(16 / (8 + entropy(made)), 16 / (8 + entropy(real)), rel_tol=0.02)


@pytest.mark.parametrize("size", [8, 4096, 1_000_000, 8 * 2**20])
def test_blocks_come_in_any_multiple_of_eight_bytes(size: int) -> None:
    blocks = BlockBytes(size)
    data = blocks.make("a")
    assert len(data) == size
    assert blocks.matches("a", data)


@pytest.mark.parametrize("size", [0, -8, 7, 12])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="multiple of 8"):
        BlockBytes(size)
