"""LMCache's L2 adapters (its multi-process mode), as its store and prefetch loops call them."""

from __future__ import annotations

from typing import Final

from lms_conformance.adapters.interface import Rules

RULES: Final = Rules(
    "lmcache-l2",
    {
        "delete": "it has no `delete` of its own",
        "list": "it has no `list_l2_keys`",
        "failing": "no options were given under which its medium fails",
    },
)
