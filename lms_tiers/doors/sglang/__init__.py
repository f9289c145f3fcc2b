"""The door under SGLang: `HiCache`, a `dynamic` storage backend of its hierarchical cache.

SGLang is imported with the class, at its first use; docs/doors/sglang.md says how it is configured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lms_tiers.errors import ConfigError

if TYPE_CHECKING:
    from lms_tiers.doors.sglang.backend import HiCache

__all__ = ["HiCache"]


def __getattr__(name: str) -> Any:
    if name == "HiCache":
        try:
            from lms_tiers.doors.sglang.backend import HiCache
        except ImportError as error:
            raise ConfigError(
                f'SGLang cannot be imported ({error}): the door needs it beside lms-tiers, "pip install sglang".'
            ) from error
        return HiCache
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
