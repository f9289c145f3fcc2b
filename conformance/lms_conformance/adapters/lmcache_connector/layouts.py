"""What chunks are made of, and their keys. LMCache is imported where it is needed only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

import torch

from lms_conformance.adapters.driven import content

MODEL: Final = "llama/8b"


@dataclass(frozen=True, slots=True)
class Layout:
    """One run of LMCache's: each group of layers as (keys and values, layers, width, dtype), in chunks of `tokens`."""

    tokens: int
    groups: tuple[tuple[int, int, int, torch.dtype], ...]
    mla: bool = False
    #: Tokens of a chunk at the end of a prompt; LMCache has none where there are several groups.
    last: int = 7

    @property
    def sizes(self) -> list[int]:
        """Tokens that a chunk may have."""
        return [self.tokens, self.last] if len(self.groups) == 1 else [self.tokens]

    def shapes(self, tokens: int) -> list[torch.Size]:
        """Of a chunk of so many tokens."""
        return [torch.Size((kv, layers, tokens, width)) for kv, layers, width, _ in self.groups]

    @property
    def dtypes(self) -> list[torch.dtype]:
        """Of its groups."""
        return [dtype for *_, dtype in self.groups]

    def nbytes(self, tokens: int) -> int:
        """Length of a chunk."""
        return sum(
            shape.numel() * dtype.itemsize for shape, dtype in zip(self.shapes(tokens), self.dtypes, strict=True)
        )

    def content(self, number: int, tokens: int, version: int) -> bytes:
        """Bytes of a chunk: no other's, nor another version's."""
        return content(number + 1000 * version + 100_000 * tokens, self.nbytes(tokens))

    @property
    def format(self) -> Any:
        """As LMCache calls it."""
        from lmcache.v1.memory_management import MemoryFormat

        return MemoryFormat.KV_MLA_FMT if self.mla else MemoryFormat.KV_2LTD

    def metadata(self) -> Any:
        """What LMCache tells a connector of its run."""
        from lmcache.v1.metadata import LMCacheMetadata

        kv, layers, width, dtype = self.groups[0]
        made = LMCacheMetadata(
            MODEL, 2, 2, 1, 1, dtype, (layers, kv, self.tokens, 1, width), use_mla=self.mla, chunk_size=self.tokens
        )
        if len(self.groups) > 1:
            groups = [
                SimpleNamespace(
                    dtype=dtype, num_layers=layers, hidden_dim_size=width, shape_desc=SimpleNamespace(kv_size=kv)
                )
                for kv, layers, width, dtype in self.groups
            ]
            made.kv_layer_groups_manager = SimpleNamespace(kernel_groups=groups, num_kernel_groups=len(groups))
        return made


LAYOUTS: Final[Mapping[str, Layout]] = {
    "one": Layout(16, ((2, 2, 32, torch.bfloat16),)),
    "mla": Layout(16, ((1, 2, 48, torch.bfloat16),), mla=True),
    "hybrid": Layout(16, ((2, 2, 32, torch.bfloat16), (1, 3, 20, torch.float32))),
    "wide": Layout(256, ((2, 2, 512, torch.bfloat16),)),
}

#: What the hashes of chunks begin at: 64 bits, none of them zero by chance.
_HASH: Final = 0x9E3779B97F4A7C15


def key(
    number: int, *, model: str = MODEL, world: int = 2, worker: int = 1, dtype: str = "bfloat16", high: int = 0,
    tags: Mapping[str, str] | None = None,
) -> Any:  # fmt: skip
    """The key of a chunk; `high` is added to the upper half of its hash."""
    from lmcache.utils import CacheEngineKey

    configs = {f"lmcache.tag.{name}": value for name, value in tags.items()} if tags else None
    return CacheEngineKey(model, world, worker, _HASH + number + (high << 40), getattr(torch, dtype), configs)
