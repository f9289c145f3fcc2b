"""The door under vLLM: a secondary tier of its KV offloading, by `module_path` or by the type ``lms``.

Nothing is imported before its use: the entry point runs in every process of vLLM's.
"""

from __future__ import annotations

from typing import Any

__all__ = ["LMSTier"]


def __getattr__(name: str) -> Any:
    if name == "LMSTier":
        from lms_tiers.doors.vllm.tier import LMSTier

        return LMSTier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
