"""A line of JSON each way between the kit and the processes beside it."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any


class Line:
    """A line of JSON each way over a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rw", encoding="utf-8")

    def say(self, message: dict[str, Any]) -> None:
        """Send at once: the other side counts on what was said before a kill."""
        self._file.write(json.dumps(message) + "\n")
        self._file.flush()

    def hear(self) -> dict[str, Any] | None:
        """The next message, None at the end."""
        text = self._file.readline()
        return json.loads(text) if text.endswith("\n") else None

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self._file.close()
