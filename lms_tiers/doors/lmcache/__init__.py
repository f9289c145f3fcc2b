"""The door for LMCache: `L2Adapter` for its multi-process mode, `ConnectorAdapter` for its in-process mode.

Either is imported with LMCache at its first use; `docs/doors/lmcache.md` says how each is configured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lms_tiers.doors.lmcache.adapter import L2Adapter
    from lms_tiers.doors.lmcache.connector import ConnectorAdapter

__all__ = ["ConnectorAdapter", "L2Adapter"]


def __getattr__(name: str) -> Any:
    # LMCache looks for more than it needs (`L2AdapterConfig`): only what there is may be found.
    if name == "L2Adapter":
        from lms_tiers.doors.lmcache.adapter import L2Adapter

        return L2Adapter
    if name == "ConnectorAdapter":
        from lms_tiers.doors.lmcache.connector import ConnectorAdapter

        return ConnectorAdapter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
