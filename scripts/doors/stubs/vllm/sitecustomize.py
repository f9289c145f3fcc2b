"""Stands in for what of vLLM cannot be imported without an accelerator: packages whose beginnings load CUDA code.

Of the tiers of KV offloading nothing is replaced: specification, managers, the shared region and their tests' subjects
are vLLM's own.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

#: Packages that are entered without their `__init__`.
BARE: Final = (
    "vllm.distributed", "vllm.distributed.kv_transfer", "vllm.distributed.kv_transfer.kv_connector",
    "vllm.distributed.kv_transfer.kv_connector.v1",
)  # fmt: skip
#: Modules of which every name is an empty class.
EMPTY: Final = (
    "vllm.config", "vllm._custom_ops", "vllm.distributed.kv_transfer.kv_connector.factory",
    "vllm.v1.kv_offload.cpu.gpu_worker",
)  # fmt: skip


class _Anything(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})

    def __or__(cls, other: Any) -> Any:
        return cls

    __ror__ = __or__


class _Empty(ModuleType):
    __path__ = ()  # type: ignore[assignment]  # a package without files

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {"__init__": lambda self, *given, **named: None})


class _Stubs:
    """Finds and loads the modules named above, and nothing else."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if name in EMPTY or any(name.startswith(f"{empty}.") for empty in EMPTY):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        if name in BARE and path:
            folders = [str(Path(folder) / name.rpartition(".")[2]) for folder in path]
            spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = folders
            return spec
        return None

    def create_module(self, spec: Any) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to execute."""


sys.meta_path.insert(0, _Stubs())
