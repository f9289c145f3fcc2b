"""`ServerHarness`: the harness of a backend whose place is a server. One server a place, or one for all of them."""

from __future__ import annotations

import atexit
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from lms_conformance.harness import DEFAULT_CAPACITY, IMPATIENT, PATIENT, Harness, source_of
from lms_conformance.loopback import LoopbackServer
from lms_conformance.waivers import Waiver
from lms_tiers.errors import ConfigError
from lms_tiers.interface import LMSBackendInterface

#: Where the one server of all places is noted.
_ALL: Final = ""


class ServerHarness(Harness):
    """A backend that talks to a server, which the harness starts on loopback, and reaps in every case.

    Processes that crash properties kill are clients of the same server: it is the kit that kills it, and when.

    Parameters
    ----------
    command : sequence of str
        Program and arguments of the server, which stays in the foreground; ``{port}``, ``{address}``, ``{folder}``
        (where it keeps its files, below the place) and ``{capacity}`` (bytes) are filled in.
    ready : callable, optional
        ``ready(address)`` says whether it serves; see `LoopbackServer`.
    stop : signal.Signals
        Asks it to end in an orderly way.
    device : str
        The device text of one tier; ``{server}`` is the server's address, ``{tmp}`` the place's directory,
        ``{deadline}`` the seconds within which it says that a call ends: the family LIV stalls the server then.
    address : str
        Where it listens: ``{port}`` and ``{folder}`` are filled in.
    shared : bool
        One server for all places, which `device` then keeps apart by ``{tmp}``, in a prefix for example. What a place
        leaves is removed by the backend itself.
    name : str, optional
    waivers : sequence of Waiver

    Examples
    --------
    What a plugin's ``BackendSpec(conformance="mine.conformance:harness")`` names::

        harness = ServerHarness(["mine-server", "--port", "{port}"], device="mine:{server}?timeout=10s")
    """

    local: bool = False
    has_server: bool = True

    def __init__(
        self,
        command: Sequence[str],
        ready: Callable[[str], bool] | None = None,
        stop: signal.Signals = signal.SIGTERM,
        *,
        device: str,
        address: str = "127.0.0.1:{port}",
        shared: bool = False,
        name: str | None = None,
        waivers: Sequence[Waiver] = (),
    ) -> None:
        if shared and "{tmp}" not in device:
            raise ConfigError("places of one server are kept apart by {tmp} in the device text, as in a prefix.")
        self.command = tuple(command)
        self.ready = ready
        self.ends_by = stop
        self.device = device
        self.address = address
        self.shared = shared
        self.name = name or device.partition(":")[0]
        self.waivers = tuple(waivers)
        self.deadline = IMPATIENT if "{deadline}" in device else None
        self.takes_capacity = "{capacity}" in " ".join((device, *command))
        self._lock = threading.Lock()
        self._servers: dict[str, LoopbackServer] = {}
        self._addresses: dict[str, str] = {}
        self._logs: Path | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Another process is a client of the servers that run here.
        return {k: v for k, v in vars(self).items() if k not in ("_lock", "_servers", "_logs")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock(), _servers={}, _logs=None)

    # -- the server --------------------------------------------------------------------------------------------------

    def start(self, path: Path, capacity: int | None) -> str:
        """The address of the server of a place, started where none was.

        Raises
        ------
        StorageUnavailableError
            It cannot be started.
        """
        place = self._place(path)
        with self._lock:
            if place not in self._addresses:
                server = LoopbackServer(
                    self.command, self.ready, self.ends_by, address=self.address,
                    folder=self._folder() / "all" if self.shared else path / "server",
                    log=self._folder() / f"log{len(self._servers)}", capacity=capacity or DEFAULT_CAPACITY,
                )  # fmt: skip
                server.start()
                self._servers[place], self._addresses[place] = server, server.address
            return self._addresses[place]

    def _place(self, path: Path) -> str:
        return _ALL if self.shared else str(path)

    def _folder(self) -> Path:
        if self._logs is None:
            self._logs = Path(tempfile.mkdtemp(prefix="lms-conformance-server-"))
            atexit.register(self.end)
        return self._logs

    def _server(self, path: Path) -> LoopbackServer:
        return self._servers[self._place(path)]

    def kill(self, path: Path) -> None:
        """SIGKILL to the server of a place."""
        self._server(path).kill()

    def stall(self, path: Path) -> None:
        """SIGSTOP to the server of a place."""
        self._server(path).stall()

    def heal(self, path: Path) -> None:
        """Let the server of a place go on, or start it again at its address."""
        self._server(path).heal()

    def revive(self, path: Path) -> None:
        """Start the server of a place again, where it died."""
        server = self._servers.get(self._place(path))
        if server is not None and not server.runs:
            server.kill()
            server.start()

    def stop(self, path: Path) -> None:
        """End the server of a place in an orderly way; one of all places stays."""
        if not self.shared and (server := self._servers.pop(str(path), None)) is not None:
            del self._addresses[str(path)]
            server.stop()

    def end(self) -> None:
        """End every server, and remove what they left."""
        with self._lock:
            for server in self._servers.values():
                server.kill()
            self._servers.clear()
            self._addresses.clear()
            if self._logs is not None:
                shutil.rmtree(self._logs, ignore_errors=True)
                self._logs = None
                atexit.unregister(self.end)

    # -- the backend -------------------------------------------------------------------------------------------------

    def open(self, path: Path, capacity: int | None) -> LMSBackendInterface:
        """Open the one tier of the device text at the place's server."""
        return self._opened(path, capacity, PATIENT)

    def open_impatient(self, path: Path, capacity: int | None) -> LMSBackendInterface:
        """The same with a short ``{deadline}``."""
        return self._opened(path, capacity, IMPATIENT)

    def _opened(self, path: Path, capacity: int | None, deadline: float) -> LMSBackendInterface:
        from lms_tiers.device import parse_tier
        from lms_tiers.factory import open_backend

        text = self.device.replace("{server}", self.start(path, capacity)).replace("{tmp}", str(path))
        text = text.replace("{capacity}", f"{capacity or DEFAULT_CAPACITY}B").replace("{deadline}", f"{deadline:g}")
        return open_backend(parse_tier(text))

    def reopen(self, path: Path, capacity: int | None) -> LMSBackendInterface:
        """Open it again; a server that was killed is started again."""
        self.revive(path)
        return self.open(path, capacity)

    def clean(self, path: Path, capacity: int | None) -> None:
        """Remove what is left of a place in the server of all; a server of its own takes everything along."""
        if self.shared:
            super().clean(path, capacity)

    def source(self) -> str:
        """A call of this harness by the backend's name."""
        return source_of(self.name)
