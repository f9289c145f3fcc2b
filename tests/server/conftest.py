"""Servers for tests: small limits, and everything closed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch  # noqa: F401 - as in a server: no request waits for this import

from lms_tiers import LMSBackendInterface, LMSLocalBackend
from lms_tiers.server.server import Server
from lms_tiers.server.settings import make_settings

Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server on a free port: ``serve(backend=None, **settings)``."""
    with ExitStack() as stack:

        def start(backend: LMSBackendInterface | None = None, **settings: Any) -> Server:
            held = stack.enter_context(backend or LMSLocalBackend())
            small = {"port": 0, "threads": 4, "max_chunk": "1MiB", "receive_budget": "4MiB", **settings}
            return stack.enter_context(Server(held, make_settings(None, small)))

        yield start
