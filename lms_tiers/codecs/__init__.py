"""Codecs: how a backend shrinks chunks, one file per codec; this module registers the built-in ones.

Codecs know nothing of backends. Importing this module imports neither numpy nor zstandard.
"""

from __future__ import annotations

from collections.abc import Callable

from lms_tiers.hookspecs import CodecSpec, hookimpl


@hookimpl
def register_codecs(register: Callable[[CodecSpec], None]) -> None:
    """Register `auto`, `planes`, `zstd` and `raw`."""
    at = "lms_tiers.codecs.builtin:"
    register(
        CodecSpec(name="auto", factory=at + "auto", summary="planes, zstd or raw, by dtype and by what a sample gains")
    )
    register(
        CodecSpec(name="planes", factory=at + "planes", summary="for KV tensors: exponents entropy coded, noise raw")
    )
    register(
        CodecSpec(name="zstd", factory=at + "zstd", summary="zstd at a level, as in zstd:3: for text and the like")
    )
    register(CodecSpec(name="raw", factory=at + "raw", summary="bytes as they are"))
