"""What may stand after ``?`` in a device text for the lmdb backend."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from lms_tiers.options import Options

SyncMode = Literal["none", "batch", "commit"]

#: What is there after a loss of power.
OUTLIVES_POWER: Final[dict[SyncMode, str | None]] = {"none": None, "batch": "flush", "commit": "put"}


class LmdbOptions(Options):
    """Options of the lmdb backend."""

    sync: SyncMode = Field("batch", description="what survives a power loss: see docs/durability.md")
    codec: str = Field("auto", description="auto, raw, zstd:N, planes, or one of a plugin")
    threads: int = Field(0, ge=0, le=64, description="threads that encode and decode; 0: one per core, at most 4")
    direct: bool = Field(False, description="read and write chunks past the page cache (O_DIRECT)")
