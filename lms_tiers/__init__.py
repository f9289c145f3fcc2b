"""Tiered, evicting storage for LLM KV-cache chunks, with backends as plugins."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lms_tiers.version import __version__ as __version__

if TYPE_CHECKING:
    from lms_tiers.buffers import own_bytes
    from lms_tiers.factory import CreateStorageBackend
    from lms_tiers.hookspecs import BackendSpec, CodecSpec, PolicySpec, hookimpl
    from lms_tiers.interface import (
        CONTRACT_VERSION,
        BackendStats,
        Capabilities,
        ChunkInfo,
        ChunkView,
        LMSBackendInterface,
    )
    from lms_tiers.messages import (
        CacheEngineKey,
        ChunkMeta,
        ClientCommand,
        ClientMetaMessage,
        LMSMemoryObj,
        MemoryFormat,
        OpaqueKey,
        ServerMetaMessage,
        ServerReturnCode,
        key_text,
    )
    from lms_tiers.plugins.cpu import LMSLocalBackend
    from lms_tiers.request import RequestContext

# Names are imported on first use: a plugin that needs only `hookimpl` pays for nothing else.
_HOME = {
    "CreateStorageBackend": "factory",
    "BackendSpec": "hookspecs", "CodecSpec": "hookspecs", "PolicySpec": "hookspecs", "hookimpl": "hookspecs",
    "CONTRACT_VERSION": "interface", "BackendStats": "interface", "Capabilities": "interface",
    "ChunkInfo": "interface", "ChunkView": "interface", "LMSBackendInterface": "interface",
    "CacheEngineKey": "messages", "ChunkMeta": "messages", "ClientCommand": "messages",
    "ClientMetaMessage": "messages", "LMSMemoryObj": "messages", "MemoryFormat": "messages", "OpaqueKey": "messages",
    "ServerMetaMessage": "messages", "ServerReturnCode": "messages", "key_text": "messages", "own_bytes": "buffers",
    "LMSLocalBackend": "plugins.cpu", "RequestContext": "request",
}  # fmt: skip

__all__ = [
    "BackendSpec",
    "BackendStats",
    "CONTRACT_VERSION",
    "CacheEngineKey",
    "Capabilities",
    "ChunkInfo",
    "ChunkMeta",
    "ChunkView",
    "ClientCommand",
    "ClientMetaMessage",
    "CodecSpec",
    "CreateStorageBackend",
    "LMSBackendInterface",
    "LMSLocalBackend",
    "LMSMemoryObj",
    "MemoryFormat",
    "OpaqueKey",
    "PolicySpec",
    "RequestContext",
    "ServerMetaMessage",
    "ServerReturnCode",
    "hookimpl",
    "key_text",
    "own_bytes",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
