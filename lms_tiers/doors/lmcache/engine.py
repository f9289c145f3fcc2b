"""What this door takes of LMCache's multi-process mode: the one place where its releases may differ.

Nothing differs in 0.5.4 to 0.5.6, which `make doors` runs. Importing this imports LMCache, and torch with it.
"""

from __future__ import annotations

from lmcache.lmcache_native import Bitmap
from lmcache.v1.distributed.api import KeyEntry, KeyListPage, ObjectKey
from lmcache.v1.distributed.internal_api import L2StoreResult
from lmcache.v1.distributed.l2_adapters.base import L2AdapterInterface
from lmcache.v1.platform import create_event_notifier

__all__ = [
    "Bitmap",
    "KeyEntry",
    "KeyListPage",
    "L2AdapterInterface",
    "L2StoreResult",
    "ObjectKey",
    "create_event_notifier",
]
