"""Keys, messages and bytes for the tests of `pinned`."""

from __future__ import annotations

import random

import torch

from lms_tiers.device import parse_device
from lms_tiers.factory import open_backend
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ClientCommand, ClientMetaMessage, MemoryFormat

MIB = 1 << 20
PAGE = 4096


def key(name: object) -> CacheEngineKey:
    return CacheEngineKey.from_string(f"chunk {name}")


def message(name: object, length: int, dtype: torch.dtype | None = torch.uint8) -> ClientMetaMessage:
    size = dtype.itemsize if dtype is not None else 1
    shape = torch.Size([length // size])
    return ClientMetaMessage(ClientCommand.PUT, key(name), length, MemoryFormat.KV_2LTD, dtype, shape)


def content(seed: int, length: int) -> bytearray:
    return bytearray(random.Random(seed).randbytes(length))


def open_text(device: str) -> LMSBackendInterface:
    return open_backend(parse_device(device).tiers[0])
