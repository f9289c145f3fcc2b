"""A package that looks like LMCache: its key and message types under its module names, none of its code."""

from __future__ import annotations

import enum
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest


class Command(enum.IntEnum):
    PUT = 1


class Format(enum.Enum):
    KV_2LTD = 1


@dataclass(frozen=True)
class Key:
    model_name: str
    world_size: int
    worker_id: int
    chunk_hash: int
    dtype: Any
    request_configs: dict[str, Any] | None = None

    def to_string(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return f"{self.model_name}@{self.world_size}@{self.worker_id}@{self.chunk_hash:x}@{name}"


@dataclass
class Message:
    command: Command
    key: Key
    length: int
    fmt: Format
    dtype: Any
    shape: Any
    location: str | None = None


@pytest.fixture
def lmcache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the look-alikes importable as LMCache's."""
    modules: dict[str, dict[str, Any]] = {
        "lmcache": {},
        "lmcache.utils": {"CacheEngineKey": Key},
        "lmcache.v1": {},
        "lmcache.v1.memory_management": {"MemoryFormat": Format},
        "lmcache.v1.protocol": {"ClientCommand": Command, "ClientMetaMessage": Message},
    }
    for name, attributes in modules.items():
        module = ModuleType(name)
        vars(module).update(attributes, __path__=[])
        monkeypatch.setitem(sys.modules, name, module)
