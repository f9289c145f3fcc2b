"""Keys and values that a short look takes for equal, and values with structure: what random bytes never show.

Texts whose digests begin or end alike were searched for, some millions of them by each digest; the rest is arithmetic.
"""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

#: Numbers of texts ``k%08x`` whose digests are equal in their first or last five bytes.
_BY_DIGEST: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "MD5": ((2635568, 2947283), (927047, 1894565)),
    "SHA-1": ((1544402, 2220480), (62962, 2409408)),
    "SHA-256": ((348824, 1126543), (1041088, 1945427)),
    "SHA-512": ((1015016, 1385632),),
    "BLAKE2b": ((1862260, 2188354), (1345201, 2759256)),
    "BLAKE2b of 16 bytes": ((896145, 2907579), (55404, 2523220)),
    "BLAKE2b of 8 bytes": ((1419060, 2394413), (1260282, 1663227)),
    "BLAKE2s": ((1385616, 2479140),),
    "XXH64": ((1186026, 2768706), (1004019, 1751569)),
    "XXH3 of 64 bits": ((523912, 897150), (1810630, 2655985)),
    "XXH3 of 128 bits": ((741913, 1615177), (468994, 2459879)),
}

#: Pairs of texts that 32-bit sums and hashes take for equal.
_BY_SUM: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "XXH32": (("kd22a5c21f8a0", "k73b06b57155f"),),
    "CRC-32": (("k19923092b285", "k54260059120f"), ("k66abb06ffa6b", "kc01996fa5c3c")),
    "FNV-1a": (("kd3f1e116af4c", "k6997f86643e4"),),
    "FNV-1": (("k37b1fb5ea870", "kf10cba609ee9"),),
    "Adler-32": (("k00000020", "k00000101"),),
    "31 times the hash": (("kAa", "kBB"), ("kAaAa", "kBBBB")),
    "33 times the hash": (("kbA", "kab"),),
    "the sum of the bytes": (("k0123456789", "k9876543210"), ("listen", "silent")),
}


def texts() -> dict[str, tuple[tuple[str, str], ...]]:
    """Pairs of texts, by what takes them for equal."""
    found = {name: tuple((f"k{a:08x}", f"k{b:08x}") for a, b in pairs) for name, pairs in _BY_DIGEST.items()}
    return {**found, **_BY_SUM}


#: A multiple of the polynomials of CRC-32, CRC-32C, CRC-16 and CRC-CCITT, and of their mirrors. Added to (XOR) any
#: message it leaves those that shift to the right as they are, and in the other order of bits those that shift left.
_RIGHT: Final = bytes.fromhex("803efcf471c23adbdfc2caee7aafbba9a1fd6dae21c7971fbe")
_LEFT: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in _RIGHT)


@lru_cache(maxsize=2)
def named(size: int) -> dict[str, bytes]:
    """Every value of `structured` and `lookalikes`, by its name; and "itself", which the latter are like."""
    base = random.Random(-size).randbytes(size)
    first, second = adler_pair(base)
    return {
        **dict(structured(size)), "itself": base, **dict(lookalikes(base)),
        "Adler-32, one": first, "Adler-32, two": second,
    }  # fmt: skip


def lookalikes(base: bytes) -> Iterator[tuple[str, bytes]]:
    """Other values of the same length, by what takes them for `base`; of some bytes there are few."""
    size = len(base)
    for at in sorted({0, 1, 63, 64, 511, 512, size // 3, size // 2, 4095, 4096, size - 65, size - 2, size - 1}):
        if 0 <= at < size:
            yield f"all bytes but number {at}", _with(base, at, bytes([base[at] ^ 0x10]))
    if size >= 64:
        middle = size // 2 - 16
        for name, pattern in {"CRC-32": _RIGHT, "CRC-16": _LEFT}.items():
            changed = bytes(a ^ b for a, b in zip(base[middle:], pattern, strict=False))
            yield name, _with(base, middle, changed)
        # One more, two less, one more: neither the sum nor the sum of the sums changes (Fletcher, Adler).
        window = bytearray(base[middle : middle + 3])
        window[:] = bytes((min(b, 250) | 4) & 0xFC for b in window)
        yield "what it is after rounding", _with(base, middle, bytes(window))
    if size >= 8:
        yield "the sum of its bytes", bytes(reversed(base))
        half = size // 2
        yield "the set of its halves", base[half : 2 * half] + base[:half] + base[2 * half :]


def adler_pair(base: bytes) -> tuple[bytes, bytes]:
    """Two values like `base` that Adler-32 and Fletcher's sums take for equal."""
    middle = len(base) // 2
    return _with(base, middle, b"\x40\x42\x40"), _with(base, middle, b"\x41\x40\x41")


def _with(base: bytes, at: int, part: bytes) -> bytes:
    return base[:at] + part + base[at + len(part) :]


#: What formats, protocols and languages take for an end, for nothing, for a removed or for an encoded value.
SENTINELS: Final = (
    b"None", b"null", b"nil", b"NaN", b"0", b"1", b"-1", b"False", b"True", b"{}", b"[]", b'""', b"''", b"\x00",
    b"\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\n", b"\r\n", b"a\r\nb", b" ", b"  a  ", b"\x1a", b"\x04",
    b"EOF", b"END\r\n", b"$-1\r\n", b"*-1\r\n", b"+OK\r\n", b"-ERR\r\n", b"_\r\n", b"DELETED", b"TOMBSTONE",
    b"__deleted__", b"__tombstone__", b"__missing__", b"MISS", b"NOT_FOUND", b"404", b"\xde\xad\xbe\xef",
    b"\xef\xbb\xbf", b"\xfe\xff", b"e30=", b"AAAA", b"\x1f\x8b\x08\x00", b"\x78\x9c", b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18", b"\xfd7zXZ\x00", b"BZh9", b"PK\x03\x04", b"\x93NUMPY", b"SQLite format 3\x00", b"%s%n",
    b"\\x00", b"\\N", b"../../x", b"<xml/>", b"data:,x", b"\x7fELF", pickle.dumps(None), pickle.dumps(b""),
    pickle.dumps({"value": None}), json.dumps({"value": None}).encode(), b'{"deleted": true}', b'{"expires": 0}',
    b'{"error": "not found"}',
)  # fmt: skip


def structured(size: int) -> Iterator[tuple[str, bytes]]:
    """Values of `size` bytes with structure."""
    noise = random.Random(size).randbytes(size)
    for byte in (0x00, 0xFF, 0x20, 0x0A, 0x01, 0x80, 0x55):
        yield f"all {byte:#04x}", bytes([byte]) * size
    third = size // 3
    yield "zeros at the beginning", bytes(third) + noise[third:]
    yield "zeros at the end", noise[: size - third] + bytes(third)
    yield "ones at the end", noise[: size - third] + b"\xff" * third
    yield "zeros in the middle", noise[:third] + bytes(size - 2 * third) + noise[size - third :]
    for at in sorted({0, size // 2, size - 1}):
        yield f"zeros but for byte {at}", _with(bytes(size), at, b"\x01")[:size]
    yield "every byte value in turn", (bytes(range(256)) * (size // 256 + 1))[:size]
    yield "lines of text", (b"a line of text, and one more\r\n" * (size // 30 + 1))[:size]
    for page in (512, 4096, 65536):
        if size > page:
            holes = bytearray(noise)
            for at in range(page, size, 2 * page):
                holes[at : at + page] = bytes(len(holes[at : at + page]))
            yield f"holes of {page} bytes", bytes(holes)
    for period in (2, 8, 64, 255, 4096, 4097, 16384, 65536, 262144):
        if size > period:
            yield f"repeated every {period} bytes", (noise[:period] * (size // period + 1))[:size]
    for page in (4096, 65536):
        if size > 2 * page:
            yield f"pages of {page} bytes with equal heads", _paged(noise, page, head=True)
            yield f"pages of {page} bytes with equal tails", _paged(noise, page, head=False)


def _paged(noise: bytes, page: int, *, head: bool) -> bytes:
    out = bytearray(noise)
    for at in range(0, len(out), page):
        begin = at if head else at + page - 512
        if begin + 512 <= len(out):
            out[begin : begin + 512] = noise[:512]
    return bytes(out)
