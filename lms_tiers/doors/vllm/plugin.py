"""What vLLM's entry point `vllm.general_plugins` calls, in every process of its own."""

from __future__ import annotations

import logging
from typing import Final

_log = logging.getLogger(__name__)

#: What `"type"` is in a tier's configuration once the plugin is installed.
TYPE: Final = "lms"


def register() -> None:
    """Tell vLLM of the tier by name; it is imported when a configuration asks for it. Does nothing a second time."""
    try:
        from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory
    except ImportError as error:
        _log.debug("this vLLM has no secondary tiers: %s", error)
        return
    if TYPE not in getattr(SecondaryTierFactory, "_registry", {}):
        try:
            SecondaryTierFactory.register_tier(TYPE, "lms_tiers.doors.vllm.tier", "LMSTier")
        except ValueError as error:
            _log.debug("registered already: %s", error)
