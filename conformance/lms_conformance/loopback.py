"""A server process on loopback: started and awaited, killed, stalled and healed, and reaped whatever happens to us.

What is started is the child of a shepherd, a shell that reads from this process. When this process ends in whatever
way, the shepherd reads the end and kills the server with all that it started.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from lms_conformance import gauges
from lms_tiers.errors import ConfigError, StorageUnavailableError

#: Seconds a server may take to be ready, or to end when it is asked to, where the machine has nothing else to do.
PATIENCE: Final = 30.0

#: Below the ports that Linux gives to outgoing connections (32,768 and above), of which any may be taken between our
#: look and the server's start. Some servers (a Redis Cluster) listen 10,000 above their own as well.
_PORTS: Final = range(10_240, 22_768)
_BUS: Final = 10_000

#: In a session of its own, so that a signal for the server's group reaches all of it and nothing else.
_SHEPHERD: Final = (
    'setsid "$@" </dev/null >>"$0" 2>&1 & echo $!; read -r _; kill -KILL -$! 2>/dev/null || kill -KILL $!; wait'
)


class LoopbackServer:
    """One server.

    Parameters
    ----------
    command : sequence of str
        Program and arguments; ``{port}``, ``{address}``, ``{folder}`` and ``{capacity}`` (bytes) are filled in. It
        stays in the foreground.
    ready : callable, optional
        ``ready(address)`` says whether it serves now; it is asked until it does, and may make what the server needs,
        such as a bucket. By default it is ready when it takes a connection.
    stop : signal.Signals
        Asks it to end in an orderly way.
    folder : pathlib.Path
        Where it keeps its files.
    log : pathlib.Path
        What it says goes there.
    address : str
        Where it listens; ``{port}`` and ``{folder}`` are filled in.
    capacity : int
        Bytes, for the command.
    """

    def __init__(
        self,
        command: Sequence[str],
        ready: Callable[[str], bool] | None = None,
        stop: signal.Signals = signal.SIGTERM,
        *,
        folder: Path,
        log: Path,
        address: str = "127.0.0.1:{port}",
        capacity: int = 0,
    ) -> None:
        self.folder: Final = folder
        self.port: Final = _free_port()
        self.address: Final = address.replace("{port}", str(self.port)).replace("{folder}", str(folder))
        filled = {"port": self.port, "address": self.address, "folder": folder, "capacity": capacity}
        self._command: Final = [_filled(word, filled) for word in command]
        self._ready: Final = ready or _takes_a_connection
        self._stop: Final = stop
        self._log: Final = log
        self._shepherd: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def start(self) -> None:
        """Start it, at the same address as before, and return when it is ready.

        Raises
        ------
        ConfigError
            There is no such program.
        StorageUnavailableError
            It ended, or was not ready in time; the error tells the last that it said.
        """
        if self._shepherd is not None:
            return
        if shutil.which(self._command[0]) is None:
            raise ConfigError(f"the server {self._command[0]!r} is not installed, or not on the PATH.")
        self.folder.mkdir(parents=True, exist_ok=True)
        shepherd = subprocess.Popen(
            ["sh", "-c", _SHEPHERD, str(self._log), *self._command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        assert shepherd.stdout is not None
        self.pid = int(shepherd.stdout.readline())
        shepherd.stdout.close()
        self._shepherd = shepherd
        deadline = time.monotonic() + PATIENCE * gauges.busy()
        gate = threading.Event()
        while not self._ready(self.address):
            if self._state() in "Z" or time.monotonic() > deadline:
                how = "ended" if self._state() in "Z" else "was not ready in time"
                self.kill()
                raise StorageUnavailableError(self.address, f"its server {how}: {self._command[0]}: {self._said()}")
            gate.wait(0.01)

    def stop(self) -> None:
        """Ask it to end, and return when it has; one that does not is killed."""
        if self._shepherd is not None and self._state() not in "Z":
            self._signal(signal.SIGCONT)
            self._signal(self._stop)
            self._await(lambda: self._state() in "Z")
        self.kill()

    def kill(self) -> None:
        """SIGKILL to all of it, now, and return when it is dead."""
        if self._shepherd is not None:
            assert self._shepherd.stdin is not None
            with contextlib.suppress(OSError):
                self._shepherd.stdin.close()
            self._shepherd.wait()
            self._shepherd = None

    def stall(self) -> None:
        """SIGSTOP: it takes connections, and answers nothing, until `heal`."""
        self._signal(signal.SIGSTOP)
        self._await(self._stopped)

    def heal(self) -> None:
        """Let one that stalls go on; start one that was killed again, at its old address."""
        if self._shepherd is None:
            self.start()
        else:
            self._signal(signal.SIGCONT)

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """It stalls during the block."""
        self.stall()
        try:
            yield
        finally:
            self.heal()

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self._shepherd is not None and self._state() not in "Z"

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _state(self, task: int | None = None) -> str:
        """The kernel's letter for what it, or one of its threads, does; Z where it has ended."""
        try:
            text = Path(f"/proc/{self.pid}/task/{task or self.pid}/stat").read_text("ascii", "replace")
        except OSError:
            return "Z"
        return text.rpartition(")")[2].split()[0]

    def _stopped(self) -> bool:
        """Whether every thread has stopped: until the last has, it goes on to answer."""
        try:
            tasks = [int(name) for name in os.listdir(f"/proc/{self.pid}/task")]
        except OSError:
            return True
        return all(self._state(task) in "TZ" for task in tasks)

    def _await(self, condition: Callable[[], bool]) -> None:
        deadline, gate = time.monotonic() + PATIENCE * gauges.busy(), threading.Event()
        while not condition() and time.monotonic() < deadline:
            gate.wait(0.002)

    def _said(self) -> str:
        try:
            return self._log.read_text(encoding="utf-8", errors="replace")[-500:].strip() or "it said nothing"
        except OSError:
            return "it said nothing"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.kill()


def _filled(word: str, values: dict[str, object]) -> str:
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", str(value))
    return word


def _free_port() -> int:
    draw = random.SystemRandom()  # the generator of the process may be seeded alike in several that start servers
    while True:
        port = draw.choice(_PORTS)
        with contextlib.suppress(OSError), socket.socket() as own, socket.socket() as bus:
            own.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + _BUS))
            return port


def _takes_a_connection(address: str) -> bool:
    unix = address.startswith("unix:")
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as sock:
        sock.settimeout(1)
        try:
            sock.connect(address[len("unix:") :] if unix else (host, int(port)))
        except OSError:
            return False
    return True
