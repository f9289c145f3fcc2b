"""The conformance kit through the client: every directory the kit opens is a server of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from lms_conformance import check_backend

from lms_tiers import LMSBackendInterface, LMSLocalBackend
from lms_tiers.client import Client
from lms_tiers.server.server import Server
from lms_tiers.server.settings import make_settings

#: Left out are those that speak of files at a place (PER, CRA), and of threads, descriptors and forks, which the
#: servers in this process have too (LIF, RES, FRK).
FAMILIES = ["ALI", "BAT", "CON", "ERR", "GET", "KEY", "LST", "OVR", "RMV"]


class Servers:
    """A server for each directory, kept until the end so that a reopened directory finds its chunks."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._addresses: dict[Path, str] = {}

    def open(self, path: Path) -> LMSBackendInterface:
        if path not in self._addresses:
            backend = self._stack.enter_context(LMSLocalBackend())
            settings = make_settings(None, {"port": 0, "threads": 4})
            self._addresses[path] = self._stack.enter_context(Server(backend, settings)).address
        return Client(self._addresses[path])


@pytest.fixture
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(stack)


@pytest.mark.deep
def test_the_client_conforms(servers: Servers) -> None:
    assert check_backend(servers.open, profile="quick", only=FAMILIES, seed=1).ok
