"""The kit's lookalikes are alike in what they say, and its buffers notice each byte."""

from __future__ import annotations

import binascii
import hashlib
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import xxhash
from lms_conformance.buffers import FILL, canvases
from lms_conformance.chunks import Chunk
from lms_conformance.lookalikes import SENTINELS, lookalikes, named, structured, texts
from lms_conformance.violation import Violation

DIGESTS: dict[str, Callable[[bytes], bytes]] = {
    "MD5": lambda b: hashlib.md5(b).digest(),
    "SHA-1": lambda b: hashlib.sha1(b).digest(),
    "SHA-256": lambda b: hashlib.sha256(b).digest(),
    "SHA-512": lambda b: hashlib.sha512(b).digest(),
    "BLAKE2b": lambda b: hashlib.blake2b(b).digest(),
    "BLAKE2b of 16 bytes": lambda b: hashlib.blake2b(b, digest_size=16).digest(),
    "BLAKE2b of 8 bytes": lambda b: hashlib.blake2b(b, digest_size=8).digest(),
    "BLAKE2s": lambda b: hashlib.blake2s(b).digest(),
    "XXH64": xxhash.xxh64_digest,
    "XXH3 of 64 bits": xxhash.xxh3_64_digest,
    "XXH3 of 128 bits": xxhash.xxh3_128_digest,
    "XXH32": xxhash.xxh32_digest,
    "CRC-32": lambda b: zlib.crc32(b).to_bytes(4, "big"),
    "Adler-32": lambda b: zlib.adler32(b).to_bytes(4, "big"),
    "the sum of the bytes": lambda b: sum(b).to_bytes(4, "big"),
}


@pytest.mark.parametrize("name", DIGESTS)
def test_texts_that_a_digest_takes_for_one_begin_or_end_alike_in_it(name: str) -> None:
    for one, other in texts()[name]:
        a, b = DIGESTS[name](one.encode()), DIGESTS[name](other.encode())
        alike = min(5, len(a))
        assert one != other
        assert a[:alike] == b[:alike] or a[-alike:] == b[-alike:]


@pytest.mark.parametrize("size", [64, 100, 4097, 65_537])
def test_values_that_are_alike_have_the_same_checksums_and_other_bytes(size: int) -> None:
    values = named(size)
    base = values["itself"]
    assert zlib.crc32(values["CRC-32"]) == zlib.crc32(base)
    assert binascii.crc_hqx(values["CRC-16"], 0) == binascii.crc_hqx(base, 0)
    assert zlib.adler32(values["Adler-32, one"]) == zlib.adler32(values["Adler-32, two"])
    assert sum(values["the sum of its bytes"]) == sum(base)
    assert len({bytes(v) for _, v in lookalikes(base)} | {base}) == 1 + sum(1 for _ in lookalikes(base))
    assert all(len(v) == size for v in values.values())


def test_structured_values_have_their_size_and_differ() -> None:
    for size in (1, 3, 64, 4097, 140_000):
        values = dict(structured(size))
        assert all(len(v) == size for v in values.values())
    assert len(set(SENTINELS)) == len(SENTINELS)


def test_a_chunk_is_named_by_what_it_is_like() -> None:
    chunk = Chunk(like="all 0x20", size=300)
    assert chunk.bytes() == b" " * 300
    assert repr(chunk) == "Chunk(like='all 0x20', size=300)"


@pytest.mark.parametrize("how", range(24))
def test_a_canvas_takes_just_what_is_to_be_written(how: int) -> None:
    data = bytes(range(1, 101)) * 50
    canvas = canvases(len(data), how)
    at = 0
    for buffer in canvas.buffers:
        view = memoryview(buffer).cast("B") if memoryview(buffer).nbytes else memoryview(bytearray())
        part = data[at : at + len(view)]
        view[: len(part)] = part
        at += len(part)
    canvas.expect(data, "a read")
    for spot in (0, len(canvas.array) // 2, len(canvas.array) - 1):
        canvas.array[spot] ^= 0x40
        with pytest.raises(Violation, match=f"byte {spot} of the destination"):
            canvas.expect(data, "a read")
        canvas.array[spot] ^= 0x40


def test_a_canvas_that_nobody_wrote_to_is_untouched() -> None:
    canvas = canvases(64, 5)
    canvas.expect(b"", "a miss")
    assert np.all(canvas.array == FILL)
