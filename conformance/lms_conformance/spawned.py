"""The processes beside a run: the fork server `zygote`, whose children crash properties kill, and `servers`."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from lms_conformance import gauges
from lms_conformance.line import Line
from lms_conformance.power.build import recorder
from lms_conformance.violation import violate

#: Seconds a child may be silent.
SILENCE = 60.0


class NotSpawnable(RuntimeError):
    """Another process cannot open this backend, so crash properties cannot run."""


class Described(Protocol):
    """What another process needs to know of a harness."""

    name: str

    def recipe(self) -> dict[str, Any] | None:
        """How to get it there, as JSON; None where it cannot."""


class Job:
    """One running child."""

    def __init__(self, zygote: Zygote, line: Line, pid: int) -> None:
        self._zygote = zygote
        self._line = line
        self.pid = pid

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the child says until it ends or is killed."""
        while (message := self.hear()) is not None:
            yield message

    def hear(self) -> dict[str, Any] | None:
        """What the child says next; None where it has ended."""
        try:
            return self._line.hear()
        except (TimeoutError, ConnectionError):
            self.kill()
            violate(f"a process with the backend to go on within {SILENCE:g} s", "silence: it hangs")

    def say(self, message: dict[str, Any]) -> None:
        """Tell the child something that it waits for."""
        with contextlib.suppress(OSError):  # it has ended, as `hear` will tell
            self._line.say(message)

    def kill(self) -> None:
        """SIGKILL, now."""
        os.kill(self.pid, signal.SIGKILL)

    def stall(self) -> None:
        """SIGSTOP, and return when none of its threads goes on any more."""
        os.kill(self.pid, signal.SIGSTOP)
        while gauges.goes_on(self.pid):
            pass

    def heal(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            with contextlib.suppress(ProcessLookupError):
                self.kill()  # it may wait to be told something that nobody tells it any more
        self._zygote.ended()


class Companion:
    """A process beside this one that runs a module of the kit, and a line to it; it starts while this one goes on.

    Parameters
    ----------
    module : str
    """

    def __init__(self, module: str) -> None:
        self._directory = tempfile.mkdtemp(prefix="lms-conformance-beside-")
        path = str(Path(self._directory) / "socket")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(8)
        self._listener.settimeout(SILENCE * gauges.busy())
        self._command = [sys.executable, "-W", "ignore", "-m", module, path]
        self._line: Line | None = None
        self._process = self._launch()

    def _launch(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **self._environment()}
        return subprocess.Popen(self._command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def _environment(self) -> dict[str, str]:
        """What it finds in its environment besides."""
        return {}

    @property
    def line(self) -> Line:
        """To the process, once it is ready."""
        if self._line is None:
            self._line = self._accept()
            self._line.hear()
        return self._line

    def _accept(self) -> Line:
        connection, _ = self._listener.accept()
        connection.settimeout(SILENCE * gauges.busy())
        line = Line(connection)
        connection.close()  # the file made from it keeps it open
        return line

    def kill(self) -> None:
        """SIGKILL, and wait for its end; `relaunch` starts another in its place."""
        self._process.kill()
        self._process.wait()
        if self._line is not None:
            self._line.close()
            self._line = None

    def relaunch(self) -> None:
        """Start it again after `kill`."""
        self._process = self._launch()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def stall(self) -> None:
        """SIGSTOP, and return when the last of its threads has stopped: until then the others go on."""
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        self.kill()
        self._listener.close()
        shutil.rmtree(self._directory, ignore_errors=True)


class Zygote(Companion):
    """The fork server; one serves a whole run, for any harness that can be described."""

    def __init__(self) -> None:
        super().__init__("lms_conformance.zygote")
        self.status: int | None = None

    def _environment(self) -> dict[str, str]:
        """With the recorder of writes, which does nothing before a job begins to record."""
        made = recorder(Path(self._directory))
        before = os.environ.get("LD_PRELOAD")
        return {} if made is None else {"LD_PRELOAD": ":".join(filter(None, (str(made), before)))}

    def job(self, name: str, harness: Described, path: Path, capacity: int | None, **arguments: Any) -> Job:
        """Start a job of `crash_jobs`; use it as a context manager.

        Raises
        ------
        NotSpawnable
            The harness cannot be described to another process.
        """
        recipe = harness.recipe()
        if recipe is None:
            raise NotSpawnable(
                f"{harness.name} cannot be opened in another process: make its factory or harness importable "
                "(module level, not a lambda or closure, not in __main__)."
            )
        self.status = None
        self.line.say({"name": name, "recipe": recipe, "path": str(path), "capacity": capacity, **arguments})
        answer = self.line.hear() or {"error": "the process that starts children died"}
        if "error" in answer:
            raise NotSpawnable(f"{harness.name} cannot be opened in another process:\n{answer['error']}")
        line = self._accept()
        hello = line.hear() or {}
        return Job(self, line, int(hello["pid"]))

    def ended(self) -> None:
        """Wait for the child's end, and note its status."""
        answer = self.line.hear() or {}
        self.status = int(answer.get("status", 0))


class ServersBeside:
    """Servers in a process of their own; what happens to it happens to all of them.

    Parameters
    ----------
    beside : Companion
        That process.
    """

    def __init__(self, beside: Companion) -> None:
        self._beside = beside
        self._lock = threading.Lock()
        self._places: dict[str, dict[str, str]] = {}

    @property
    def pid(self) -> int:
        """Of their process."""
        return self._beside.pid

    def _ask(self, question: dict[str, str]) -> str:
        self._beside.line.say(question)
        answer = self._beside.line.hear()
        if answer is None:
            raise RuntimeError("the process of the lm:// servers died")
        return str(answer["address"])

    def start(self, place: Path, device: str) -> str:
        """See `servers.Servers`."""
        question = {"start": str(place), "device": device}
        with self._lock:
            known = self._places.get(str(place), {}).get("address", "")
            if os.path.exists(known.removeprefix("unix:")):
                return known  # it may be stalled, and answer nothing now
            address = self._ask(question)
            self._places[str(place)] = {**question, "address": address}
        return address

    def stop(self, place: Path) -> None:
        """See `servers.Servers`."""
        with self._lock:
            if self._places.pop(str(place), None) is not None and self._beside.runs:
                self._ask({"stop": str(place)})

    def stall(self) -> None:
        """They answer nothing until `heal`."""
        self._beside.stall()

    def kill(self) -> None:
        """SIGKILL to the process; `heal` starts another, with the same servers at the same addresses."""
        self._beside.kill()

    def heal(self) -> None:
        """Undo `stall` or `kill`."""
        if self._beside.runs:
            self._beside.signal(signal.SIGCONT)
            return
        with self._lock:
            self._beside.relaunch()
            for question in self._places.values():
                self._ask(question)


_lock = threading.Lock()
_zygote: Zygote | None = None
_servers: tuple[Companion, ServersBeside] | None = None


def zygote() -> Zygote:
    """The fork server of this process, started on first use, ended at exit."""
    global _zygote
    with _lock:
        if _zygote is None:
            _zygote = Zygote()
            atexit.register(end)
        return _zygote


def servers_beside() -> ServersBeside:
    """The lm:// servers of this process, in one beside it that is started on first use and ended at exit."""
    global _servers
    with _lock:
        if _servers is None:
            beside = Companion("lms_conformance.servers")
            _servers = beside, ServersBeside(beside)
            atexit.register(end)
        return _servers[1]


def end() -> None:
    """End the processes beside this one."""
    global _zygote, _servers
    with _lock:
        if _zygote is not None:
            _zygote.close()
            _zygote = None
        if _servers is not None:
            _servers[0].close()
            _servers = None
