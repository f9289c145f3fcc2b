"""LMCache's remote connectors (its in-process mode), as its `RemoteBackend` calls them on its event loop."""

from __future__ import annotations

from typing import Final

from lms_conformance.adapters.interface import Rules

RULES: Final = Rules(
    "lmcache-connector",
    {
        "remove": "it has no `remove_sync` of its own",
        "failing": "no options were given under which its medium fails",
        "stalling": "no options were given under which its medium keeps every call waiting",
    },
)
