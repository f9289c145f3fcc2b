"""The plugin: what lms_tiers finds by entry point. Light imports only; the codec is imported on first use."""

from __future__ import annotations

from collections.abc import Callable

from lms_tiers import CodecSpec, hookimpl


@hookimpl
def register_codecs(register: Callable[[CodecSpec], None]) -> None:
    """The codec `keptcodec`."""
    register(CodecSpec(name="keptcodec", factory="lms_tiers_keptcodec.codec:open_codec", summary="A codec for KV chunks"))
