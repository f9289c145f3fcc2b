"""The bytes of a block: bf16 values that compress as real KV does, a pure function of the block's id.

A block is the mix of four pools of random material, each read from an offset that the id draws. Nothing here knows
requests or backends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import xxhash

from lms_tiers.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_EXPONENT: Final = 0x7F80
_NOISE: Final = 0x807F_807F_807F_807F  # signs and mantissas of the four values in a word
_STARTS: Final = 2**18  # places a block may start at in a pool, 8 bytes apart
_WORD: Final = 8
#: How many of 65,536 values have each biased exponent, from 115 up: the shape of real keys and values (normal, with a
#: spread that differs from channel to channel), 2.7 bits a value.
_SHARES: Final = (33, 33, 66, 131, 282, 544, 1055, 2130, 4358, 8218, 14772, 19287, 12452, 2123, 52)
_LEAST: Final = 115


class BlockBytes:
    """Makes and checks the bytes of blocks.

    Exponents come from two pools of KV-like values, a random mask choosing value by value between them; signs and
    mantissas are noise. So the exponent plane of a block takes 2.7 bits a value, the other plane does not compress,
    no two blocks share a run of values, and neither do two pages of one block: a block of another id, a torn or a
    shifted one never passes for the one asked for.

    Parameters
    ----------
    block_bytes : int
        A multiple of 8.
    seed : int
        Another seed gives other bytes for the same ids.

    Raises
    ------
    ConfigError
        `block_bytes` is not a positive multiple of 8.

    Examples
    --------
    >>> blocks = BlockBytes(4096)
    >>> data = blocks.make(7)
    >>> blocks.matches(7, data), blocks.matches(8, data)
    (True, False)
    """

    def __init__(self, block_bytes: int, seed: int = 0) -> None:
        if block_bytes <= 0 or block_bytes % _WORD:
            raise ConfigError(f"a block of {block_bytes} bytes is not a positive multiple of {_WORD} bytes.")
        import numpy as np

        self.block_bytes: Final = block_bytes
        self._seed = seed
        self._words = block_bytes // _WORD
        # Raw bits and a table: generated alike by every version of numpy and on every machine.
        bits = np.random.PCG64(seed)
        size = self._words + _STARTS
        exponents = np.arange(_LEAST, _LEAST + len(_SHARES), dtype=np.uint16) << 7
        table = np.repeat(exponents, _SHARES)
        mine, other = (table[bits.random_raw(size).view(np.uint16)].view(np.uint64) for _ in range(2))
        noise, more_noise = (bits.random_raw(size) & np.uint64(_NOISE) for _ in range(2))
        self._values = mine | noise
        self._differences = mine ^ other
        coins = bits.random_raw(size).view(np.uint16) & 1
        self._choice = (coins * np.uint16(_EXPONENT)).view(np.uint64)
        self._noise = more_noise
        self._expected = bytearray(block_bytes)

    def fill(self, block_id: int | str, buffer: Any) -> None:
        """Write the block into a writable buffer of exactly `block_bytes` bytes."""
        import numpy as np

        # 18 bits of the digest for each of three offsets; an int and a text of the same digits are different ids.
        name = f"{type(block_id).__name__}:{block_id}".encode("utf-8", "surrogatepass")
        digest = xxhash.xxh3_64_intdigest(name, self._seed)
        out: NDArray[np.uint64] = np.frombuffer(buffer, np.uint64)
        a, b, c = digest % _STARTS, digest // _STARTS % _STARTS, digest // _STARTS**2 % _STARTS
        n = self._words
        np.bitwise_and(self._differences[a : a + n], self._choice[b : b + n], out=out)
        np.bitwise_xor(out, self._values[a : a + n], out=out)
        np.bitwise_xor(out, self._noise[c : c + n], out=out)

    def make(self, block_id: int | str) -> bytearray:
        """The block in a buffer of its own, to be given away."""
        data = bytearray(self.block_bytes)
        self.fill(block_id, data)
        return data

    def matches(self, block_id: int | str, data: Any) -> bool:
        """Whether `data` is the block, byte for byte. Not for use by several threads at once."""
        self.fill(block_id, self._expected)
        # bytearray on the left: compared as one memory block, not item by item as memoryviews are.
        return bool(self._expected == data)
