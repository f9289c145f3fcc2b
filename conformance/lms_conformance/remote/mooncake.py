"""How the conformance kit opens `mooncake`: a master and a node on loopback, a prefix for each place."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from lms_conformance.server_harness import ServerHarness
from lms_tiers.client.address import Address
from lms_tiers.client.http import ask
from lms_tiers.errors import StorageUnavailableError

COMMAND: Final = (sys.executable, "-m", "lms_conformance.remote.mooncake_alone", "{port}", "{folder}")


def admin_of(address: str) -> Address:
    """The HTTP of a store that `mooncake_alone` started."""
    return Address("127.0.0.2", int(address.rpartition(":")[2]))


def located(address: str) -> str:
    """The location of a store that `mooncake_alone` started, and where its HTTP is."""
    admin = admin_of(address)
    return f"{address}?admin={admin.host}:{admin.port}"


def ready(address: str) -> bool:
    """Whether the node has given its memory."""
    try:
        return any(ask(admin_of(address), "/get_all_segments", 2))
    except StorageUnavailableError:
        return False


class Harness(ServerHarness):
    """A server harness with a device text in which the address stands twice."""

    def start(self, path: Path, capacity: int | None) -> str:
        """The location."""
        return located(super().start(path, capacity))


#: A busy machine is no hung node.
harness: Final = Harness(COMMAND, ready, device="mooncake:{server}&prefix={tmp}/&timeout={deadline}s", shared=True)
