"""lm:// servers for the conformance of their client: one for a place, in this process or in one beside it.

Run as ``python -m lms_conformance.servers SOCKET`` it is that process: its threads, descriptors and memory are not
those of the client under test. In a process that crash properties kill, the servers are inside, so that the kill, the
full disk and the missing rights meet the store as well.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Protocol

from lms_conformance.line import Line
from lms_conformance.spawned import servers_beside
from lms_tiers.errors import LmsTiersError

#: Chunks a server takes: the least a backend must, and little enough that one over the limit costs nothing.
MAX_CHUNK: Final = 48 * 1024 * 1024


class Servers(Protocol):
    """Where the servers run."""

    def start(self, place: Path, device: str) -> str:
        """The address of the server of `place`, started where none runs."""

    def stop(self, place: Path) -> None:
        """End the server of `place` in an orderly way, if one runs."""


class ServersHere:
    """Servers in this process.

    Parameters
    ----------
    directory : pathlib.Path
        For their sockets.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: dict[Path, tuple[str, ExitStack]] = {}
        self._started = 0

    def start(self, place: Path, device: str, address: str = "") -> str:
        """See `Servers`; where the store cannot be opened nobody listens at the address.

        One that was there before this process is given its `address` again.
        """
        from lms_tiers.factory import CreateStorageBackend
        from lms_tiers.server.server import Server
        from lms_tiers.server.settings import make_settings

        if place in self._running:
            return self._running[place][0]
        self._started += 1
        path = self._directory / f"{os.getpid()}-{self._started}"
        if address:
            path = Path(address.removeprefix("unix:"))
            path.unlink(missing_ok=True)  # that of one that was killed
        address = f"unix:{path}"
        with ExitStack() as stack:
            try:
                backend = CreateStorageBackend(device)
            except LmsTiersError:
                return address
            stack.callback(backend.close)
            settings = make_settings(
                None, {"unix": str(path), "threads": 4, "max_chunk": MAX_CHUNK, "receive_budget": 4 * MAX_CHUNK}
            )
            stack.enter_context(Server(backend, settings))
            self._running[place] = address, stack.pop_all()
        return address

    def stop(self, place: Path) -> None:
        """See `Servers`."""
        running = self._running.pop(place, None)
        if running is not None:
            running[1].close()


class ServersThere:
    """Those of another process, which is where they are started and stopped.

    Parameters
    ----------
    address : str
        Of the server of the one place that this process asks for.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def start(self, place: Path, device: str) -> str:
        """See `Servers`."""
        return self._address

    def stop(self, place: Path) -> None:
        """See `Servers`."""


def stands(device: str) -> bool:
    """Whether there is a socket, within reach, at the address that a server here gave to `device`."""
    found = re.search(r"unix:(/[^?>&]+)", device)
    return found is not None and os.path.exists(found[1].strip())  # where `Path.exists` would raise, it is not there


_here: Servers | None = None


def serve_here(directory: Path) -> None:
    """From now on the servers of this process run inside it, with their sockets in `directory`."""
    global _here
    _here = ServersHere(directory)


def serve_at(address: str) -> None:
    """From now on the server that this process asks for is the one at `address`."""
    global _here
    _here = ServersThere(address)


def servers() -> Servers:
    """Those of this process."""
    if _here is not None:
        return _here
    return servers_beside()


def main(path: str) -> None:
    """Serve until the parent hangs up."""
    # What is damaged here on purpose is told by the property, not by the log.
    logging.getLogger().addHandler(logging.NullHandler())
    import torch  # noqa: F401  # now, so that no request waits for it

    control = socket.socket(socket.AF_UNIX)
    control.connect(path)
    line = Line(control)
    directory = Path(path).parent
    here = ServersHere(directory)
    line.say({"pid": os.getpid()})
    while (question := line.hear()) is not None:
        if "start" in question:
            line.say({"address": here.start(Path(question["start"]), question["device"], question.get("address", ""))})
        else:
            here.stop(Path(question["stop"]))
            line.say({"address": ""})
    shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
