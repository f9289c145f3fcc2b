"""The built-in eviction policies, registered through the same hook as a third party's.

One file per policy. A policy sees keys, sizes and times; it knows no backend and no thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lms_tiers.hookspecs import PolicySpec, hookimpl

_BUILT_INS: Final = (("lru", "lru:Lru", "least recently used, the tail of a chain first (default)"),)


@hookimpl
def register_policies(register: Callable[[PolicySpec], None]) -> None:
    """Register every built-in policy."""
    for name, where, summary in _BUILT_INS:
        register(PolicySpec(name=name, factory=f"lms_tiers.policies.{where}", summary=summary))
