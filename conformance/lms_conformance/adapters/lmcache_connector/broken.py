"""Connectors that break one promise each, and which property must say so. Needs LMCache."""

from __future__ import annotations

from lms_conformance.adapters.lmcache_connector import broken_memory, broken_trouble
from lms_conformance.adapters.lmcache_connector.broken_chunks import ZOO

__all__ = ["ZOO", "broken_memory", "broken_trouble"]
