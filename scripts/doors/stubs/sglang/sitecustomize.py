"""Stands in for what of SGLang cannot be imported without an accelerator: kernels, models, and pools on the device.

Of the hierarchical cache nothing is replaced: the factory, host pools, the controller with its threads, the file
backend and the injectors are SGLang's own.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

#: Packages that are entered without their `__init__`.
BARE: Final = ("sglang",)
#: Modules of which every name is an empty class.
EMPTY: Final = (
    "triton", "transformers", "sglang.srt.mem_cache.memory_pool", "sglang.srt.mem_cache.deepseek_v4_memory_pool",
    "sglang.srt.layers.dp_attention", "sglang.srt.configs", "sglang.kernels",
)  # fmt: skip


class _Anything(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})

    def __call__(cls, *given: Any, **named: Any) -> Any:
        # As a decorator it leaves what it decorates alone.
        return given[0] if len(given) == 1 and callable(given[0]) and not named else type.__call__(cls)

    def __or__(cls, other: Any) -> Any:
        return cls

    __ror__ = __or__

    def __getitem__(cls, item: Any) -> Any:
        return cls


class _Empty(ModuleType):
    __path__ = ()  # type: ignore[assignment]  # a package without files
    __version__ = "0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {
            "__init__": lambda self, *given, **named: None, "__init_subclass__": classmethod(lambda cls, **named: None),
        })  # fmt: skip


class _Stubs:
    """Finds and loads the modules named above, and nothing else."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if name in EMPTY or any(name.startswith(f"{empty}.") for empty in EMPTY):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        if name in BARE:
            folders = [str(Path(folder) / name) for folder in sys.path if (Path(folder) / name / "srt").is_dir()]
            if folders:
                spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
                spec.submodule_search_locations = folders
                return spec
        return None

    def create_module(self, spec: Any) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to execute."""


sys.meta_path.insert(0, _Stubs())
