"""SGLang's HiCache: its storage backends, as the controller's two threads call them."""

from __future__ import annotations

from typing import Final

from lms_conformance.adapters.interface import Rules

RULES: Final = Rules(
    "hicache",
    {
        "v2": "it has no batches by pools (`batch_set_v2`)",
        "oracle": "SGLang's own file backend is not there to compare with",
        "close": "it has no `close`",
        "clear": "it has no `clear` of its own",
        "failing": "no options were given under which its medium fails",
    },
)
