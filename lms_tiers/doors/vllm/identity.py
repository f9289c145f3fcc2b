"""Which chunks are good for an engine: its run, as one namespace. vLLM's keys are hashes of tokens, and no more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from lms_tiers.messages import DTYPE_NAMES, ChunkMeta, MemoryFormat
from lms_tiers.namespace import Namespace

#: Bytes of an element, of those that caches are made of.
_ITEM: Final = {"float16": 2, "bfloat16": 2, "float32": 4, "float8_e4m3fn": 1, "float8_e5m2": 1, "int8": 1, "uint8": 1}


def namespace(
    config: Mapping[str, Any], rank: int, layout: str | None, canonical: bool, row: int, revision: str
) -> Namespace:
    """The namespace of a run.

    Parameters
    ----------
    config : mapping
        What vLLM tells runs apart by (model, dtype, parallel sizes, groups with their layers, block sizes).
    rank : int
    layout : str, optional
        Of the workers' caches, as vLLM calls it (``NHD``, ``HND``, ...).
    canonical : bool
        Whether rows are in vLLM's canonical format.
    row : int
        Bytes of a row, padding included.
    revision : str
        Of the model; the engine does not tell it.
    """
    return Namespace(
        model=str(config.get("model_name", "")),
        revision=revision,
        dtype=str(config.get("dtype", "")),
        layout=f"{layout or ''}{'/canonical' if canonical else ''}",
        tensor_size=int(config.get("tp_size", 1)),
        tensor_rank=rank,
        pipeline_size=int(config.get("pp_size", 1)),
        engine="vllm",
        free={"row": row, "config": json.dumps(dict(config), sort_keys=True, separators=(",", ":"), default=str)},
    )


def chunk_meta(dtype: str, row: int) -> ChunkMeta:
    """What a row is stored as: elements of the cache's dtype in one dimension where it divides the row, else bytes."""
    name = dtype.removeprefix("torch.")
    size = _ITEM.get(name, 1) if name in DTYPE_NAMES else 1
    if size == 1 or row % size:
        return ChunkMeta(row, MemoryFormat.BINARY, "uint8", (row,))
    return ChunkMeta(row, MemoryFormat.BINARY, name, (row // size,))
