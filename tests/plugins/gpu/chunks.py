"""Keys, messages and bytes for the tests of `gpu`, and which of them need an accelerator."""

from __future__ import annotations

import random

import pytest
import torch

from lms_tiers.device import parse_device
from lms_tiers.factory import open_backend
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ClientCommand, ClientMetaMessage, MemoryFormat

MIB = 1 << 20
PAGE = 4096
ACCELERATOR = torch.accelerator.is_available()
needs_accelerator = pytest.mark.skipif(not ACCELERATOR, reason="torch sees no accelerator on this machine")
needs_none = pytest.mark.skipif(ACCELERATOR, reason="this machine has an accelerator")


def key(name: object) -> CacheEngineKey:
    return CacheEngineKey.from_string(f"chunk {name}")


def message(name: object, length: int) -> ClientMetaMessage:
    return ClientMetaMessage(
        ClientCommand.PUT, key(name), length, MemoryFormat.KV_2LTD, torch.uint8, torch.Size([length])
    )


def content(seed: int, length: int) -> bytearray:
    return bytearray(random.Random(seed).randbytes(length))


def open_text(device: str) -> LMSBackendInterface:
    return open_backend(parse_device(device).tiers[0])
