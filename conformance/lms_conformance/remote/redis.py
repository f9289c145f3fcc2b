"""How the conformance kit opens `redis`: one server on loopback, a prefix for each place."""

from __future__ import annotations

from typing import Final

from lms_conformance.server_harness import ServerHarness

#: It keeps nothing on disk, and takes connections only when it serves.
COMMAND: Final = (
    "redis-server", "--bind", "127.0.0.1", "--port", "{port}", "--dir", "{folder}", "--save", "", "--appendonly", "no",
)  # fmt: skip

harness: Final = ServerHarness(COMMAND, device="redis:{server}?prefix={tmp}/&timeout={deadline}s", shared=True)
