"""Bytes to encode."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture(scope="session")
def values() -> Callable[..., bytes]:
    """The generator of bytes by kind, count and seed."""
    return generate


def generate(kind: str, count: int, seed: int = 0) -> bytes:
    """Bytes that look like what a KV cache may hold."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(count).astype(np.float32) * np.exp2(rng.integers(-3, 3, count)).astype(np.float32)
    match kind:
        case "bf16":
            return (normal.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        case "bf16 of every exponent":
            return rng.integers(0, 65536, count).astype(np.uint16).tobytes()
        case "bf16 with rare outliers":
            words = (normal.view(np.uint32) >> 16).astype(np.uint16)
            words[rng.integers(0, count, max(count // 3000, 1))] = 0x7F80
            words[rng.integers(0, count, max(count // 3000, 1))] = 0
            return words.tobytes()
        case "bf16 with many zeros":
            words = (normal.view(np.uint32) >> 16).astype(np.uint16)
            words[rng.random(count) < 0.3] = 0
            return words.tobytes()
        case "fp16":
            return normal.astype(np.float16).tobytes()
        case "fp32":
            return normal.tobytes()
        case "fp32 rounded to bf16":
            return (normal.view(np.uint32) & np.uint32(0xFFFF0000)).tobytes()
        case "fp64":
            return normal.astype(np.float64).tobytes()
        case "fp64 rounded to fp32":
            return (normal.astype(np.float64).view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).tobytes()
        case "e4m3":
            mantissa, exponent = rng.integers(0, 8, 2 * count), 7 - rng.geometric(0.5, 2 * count).clip(0, 7)
            return (rng.integers(0, 2, 2 * count) << 7 | exponent << 3 | mantissa).astype(np.uint8).tobytes()
        case "zeros":
            return bytes(2 * count)
        case "noise":
            return rng.bytes(2 * count)
        case "text":
            vocabulary = [bytes(rng.integers(97, 123, rng.integers(2, 9)).astype(np.uint8)) + b" " for _ in range(300)]
            return b"".join(vocabulary[i] for i in rng.zipf(1.4, count) % 300)[: 2 * count]
    raise AssertionError(kind)
