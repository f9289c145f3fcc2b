"""Codecs: how a backend shrinks chunks, one file per codec; this module registers the built-in ones.

Codecs know nothing of backends. Importing this module imports neither numpy nor zstandard.
"""

from __future__ import annotations

from collections.abc import Callable

from lms_tiers.hookspecs import CodecSpec, hookimpl


@hookimpl
def register_codecs(register: Callable[[CodecSpec], None]) -> None:
    """Register `auto`, `planes`, `zstd` and `raw`."""
    for name, at, summary in (
        ("auto", "auto:AutoCodec", "planes, zstd or raw, by dtype and by what a sample gains"),
        ("planes", "planes:PlanesCodec", "for KV tensors: exponents entropy coded, noise raw"),
        ("zstd", "zstd:ZstdCodec", "zstd at a level, as in zstd:3: for text and the like"),
        ("raw", "raw:RawCodec", "bytes as they are"),
    ):
        register(CodecSpec(name=name, factory=f"lms_tiers.codecs.{at}", summary=summary))
