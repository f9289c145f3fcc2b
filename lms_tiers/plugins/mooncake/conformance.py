"""How the conformance kit opens `mooncake`: a master and a node on loopback, a prefix for each place."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from lms_conformance import ServerHarness

from lms_tiers.client.address import Address
from lms_tiers.errors import StorageUnavailableError
from lms_tiers.plugins.mooncake.admin import ask

COMMAND: Final = (sys.executable, "-m", "lms_tiers.plugins.mooncake.alone", "{port}", "{folder}")


def located(address: str) -> str:
    """The location of a store that `alone` started, whose HTTP is beside its port."""
    host, _, port = address.rpartition(":")
    return f"{address}?admin={host}:{int(port) + 1}"


def ready(address: str) -> bool:
    """Whether the node has given its memory."""
    host, _, port = address.rpartition(":")
    try:
        return any(ask(Address(host, int(port) + 1), "/get_all_segments", 2))
    except StorageUnavailableError:
        return False


class Harness(ServerHarness):
    """A server harness with a device text in which the address stands twice."""

    def start(self, path: Path, capacity: int | None) -> str:
        """The location."""
        return located(super().start(path, capacity))


#: A busy machine is no hung node.
harness: Final = Harness(COMMAND, ready, device="mooncake:{server}&prefix={tmp}/&timeout={deadline}s", shared=True)
