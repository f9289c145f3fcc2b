"""LMCache's own server with this project's storage behind it: ``lmcache_server.py HOST PORT DEVICE``.

The server's module is LMCache's, untouched; only the function that makes its storage is another.
"""

from __future__ import annotations

import signal
import sys

from lmcache.v1.server import __main__ as lmcache_server

import lms_tiers

lmcache_server.CreateStorageBackend = lms_tiers.CreateStorageBackend


def main() -> None:
    """Serve until SIGTERM, then close the storage: LMCache's server never does."""
    server = lmcache_server.LMCacheServer(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        server.run()
    finally:
        server.data_store.close()


if __name__ == "__main__":
    main()
