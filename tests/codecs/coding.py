"""Codecs by their text, and chunks decoded by the codec that their layout names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lms_tiers.codecs import base
from lms_tiers.codecs.catalog import built_in

CATALOG = built_in()
make_codec = CATALOG.make


def decode_into(layout: str, block_bytes: int, blocks: Sequence[base.Buffer], out: memoryview, **options: Any) -> None:
    base.decode_into(layout, block_bytes, blocks, out, codec=CATALOG.reader(layout), **options)
