"""Waiting for what other threads do, by polling."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


def until(condition: Callable[[], Any]) -> None:
    """Return when `condition` holds; fail when it does not within a minute."""
    gate, deadline = threading.Event(), time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, condition
        gate.wait(0.005)
