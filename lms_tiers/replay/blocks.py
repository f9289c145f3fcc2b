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
_NOISE: Final = 0x807F  # sign and mantissa
_STARTS: Final = 2**18  # places a block may start at in a pool, 8 bytes apart
_WORD: Final = 8
# The values are normal, with a spread of its own for each channel; the constants are fitted so that the exponents have
# the order-0 entropy of real keys and values, 2.7 bits.
_CHANNELS: Final = 128
_SCALE: Final = 0.8
_SPREAD: Final = 0.35


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
        size = 4 * (self._words + _STARTS)
        rng = np.random.Generator(np.random.PCG64(seed))
        values = _kv_values(rng, size)
        other = _kv_values(rng, size)
        choice = rng.integers(0, 2, size, dtype=np.uint16) * np.uint16(_EXPONENT)
        noise = rng.integers(0, 2**16, size, dtype=np.uint16) & np.uint16(_NOISE)
        self._values = values.view(np.uint64)
        self._differences = ((values ^ other) & np.uint16(_EXPONENT)).view(np.uint64)
        self._choice = choice.view(np.uint64)
        self._noise = noise.view(np.uint64)
        self._expected = bytearray(block_bytes)

    def fill(self, block_id: int | str, buffer: Any) -> None:
        """Write the block into a writable buffer of exactly `block_bytes` bytes."""
        import numpy as np

        # 18 bits of the digest for each of three offsets; an int and a text of the same digits are different ids.
        digest = xxhash.xxh3_64_intdigest(f"{type(block_id).__name__}:{block_id}".encode(), self._seed)
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


def _kv_values(rng: np.random.Generator, size: int) -> NDArray[np.uint16]:
    import numpy as np

    channels = np.exp(rng.normal(0, _SPREAD, _CHANNELS)).astype(np.float32) * np.float32(_SCALE)
    values = rng.standard_normal(size, dtype=np.float32)
    values *= np.resize(channels, size)
    return ((values.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)
