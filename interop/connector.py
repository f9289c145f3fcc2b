"""LMCache's own `LMCServerConnector` against the server on a port: what comes back is what was put, byte for byte.

Runs in LMCache's environment and imports nothing of this project: ``connector.py PORT all|store|find``.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any, Final

import torch
from lmcache.utils import CacheEngineKey, LayerCacheEngineKey
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.memory_management import MemoryFormat
from lmcache.v1.metadata import LMCacheMetadata
from lmcache.v1.storage_backend.connector.lm_connector import LMCServerConnector
from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend

MODEL: Final = "interop/model"
KINDS: Final = [
    ("kv bf16 2 MiB", MemoryFormat.KV_2LTD, torch.bfloat16, (2, 4, 256, 512)),
    ("kv f16 8 KiB", MemoryFormat.KV_2LTD, torch.float16, (2, 2, 16, 64)),
    ("kv f32 1 MiB", MemoryFormat.KV_2LTD, torch.float32, (2, 4, 256, 128)),
    ("layer bf16", MemoryFormat.KV_T2D, torch.bfloat16, (256, 2, 512)),
    ("mla bf16", MemoryFormat.KV_MLA_FMT, torch.bfloat16, (1, 8, 256, 576)),
    ("uint8 16 MiB", MemoryFormat.KV_2LTD, torch.uint8, (2, 8, 1024, 1024)),
]


class Client:
    """The connector and the loop it needs."""

    def __init__(self, port: int) -> None:
        config = LMCacheEngineConfig.from_defaults(chunk_size=256, local_cpu=False, max_local_cpu_size=0.5)
        metadata = LMCacheMetadata(MODEL, 1, 1, 0, 0, torch.bfloat16, (4, 2, 256, 8, 64))
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.cpu: Any = LocalCPUBackend(config, metadata, dst_device="cpu")
        self.connector: Any = LMCServerConnector("127.0.0.1", port, self.loop, self.cpu)

    def call(self, coroutine: Any) -> Any:
        """The coroutine's result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)


def key(i: int, dtype: torch.dtype, layer: int | None = None) -> Any:
    """A key as the engine makes it."""
    hashed = 0x1F00_0000_0000 + i
    if layer is None:
        return CacheEngineKey(MODEL, 1, 0, hashed, dtype)
    return LayerCacheEngineKey(MODEL, 1, 0, hashed, dtype, layer_id=layer)


def pattern(i: int, nbytes: int) -> torch.Tensor:
    """Bytes that belong to chunk `i` only."""
    return torch.randint(0, 256, (nbytes,), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))


def store(client: Client) -> int:
    """Put every kind twice under one key: the second must win."""
    for i, (_, fmt, dtype, shape) in enumerate(KINDS):
        for seed in (1000 + i, i):
            chunk = client.cpu.allocate(torch.Size(shape), dtype, fmt)
            raw = torch.frombuffer(chunk.byte_array, dtype=torch.uint8)
            raw.copy_(pattern(seed, raw.numel()))
            client.call(client.connector.put(key(i, dtype, 3 if fmt is MemoryFormat.KV_T2D else None), chunk))
            chunk.ref_count_down()
    return len(KINDS)


def find(client: Client) -> int:
    """Get every kind and compare bytes, shape, dtype and format."""
    for i, (name, fmt, dtype, shape) in enumerate(KINDS):
        name_key = key(i, dtype, 3 if fmt is MemoryFormat.KV_T2D else None)
        assert client.call(client.connector.exists(name_key)), name
        chunk = client.call(client.connector.get(name_key))
        assert chunk is not None, name
        raw = torch.frombuffer(chunk.byte_array, dtype=torch.uint8)
        assert torch.equal(raw, pattern(i, raw.numel())), f"{name}: wrong bytes"
        assert tuple(chunk.get_shape()) == shape, (name, chunk.get_shape())
        assert chunk.get_dtype() == dtype, (name, chunk.get_dtype())
        assert chunk.get_memory_format() == fmt, (name, chunk.get_memory_format())
        chunk.ref_count_down()
    absent = key(999, torch.bfloat16)
    assert not client.call(client.connector.exists(absent))
    assert client.call(client.connector.get(absent)) is None
    return len(KINDS)


def main() -> None:
    """Run one step, or all."""
    client = Client(int(sys.argv[1]))
    step = sys.argv[2]
    stored = store(client) if step in ("all", "store") else 0
    if stored:
        # A PUT is not answered; the answer to this says that all of them were taken.
        client.call(client.connector.exists(key(0, torch.bfloat16)))
    found = find(client) if step in ("all", "find") else 0
    client.call(client.connector.close())
    print(f"{stored} kinds stored, {found} found byte for byte")


if __name__ == "__main__":
    main()
