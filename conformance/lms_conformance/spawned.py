"""The parent's side of `zygote`: start jobs in processes of their own, listen to them, kill them."""

from __future__ import annotations

import atexit
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
from typing import Any, Self

from lms_conformance.harness import Harness
from lms_conformance.violation import violate
from lms_conformance.zygote import Line

#: Seconds a child may be silent.
SILENCE = 60.0


class NotSpawnable(RuntimeError):
    """Another process cannot open this backend, so crash properties cannot run."""


class Job:
    """One running child."""

    def __init__(self, zygote: Zygote, line: Line, pid: int) -> None:
        self._zygote = zygote
        self._line = line
        self.pid = pid

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the child says until it ends or is killed."""
        while True:
            try:
                message = self._line.hear()
            except (TimeoutError, ConnectionError):
                self.kill()
                violate(f"a process with the backend to go on within {SILENCE:g} s", "silence: it hangs")
            if message is None:
                return
            yield message

    def kill(self) -> None:
        """SIGKILL, now."""
        os.kill(self.pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._zygote.ended()


class Zygote:
    """The fork server; one serves a whole run, for any harness that can be described."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="lms-conformance-zygote-")
        path = str(Path(self._directory) / "socket")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(8)
        self._listener.settimeout(SILENCE)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "lms_conformance.zygote", path],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self._control = self._accept()
        self._control.hear()
        self.status: int | None = None

    def _accept(self) -> Line:
        connection, _ = self._listener.accept()
        connection.settimeout(SILENCE)
        line = Line(connection)
        connection.close()  # the file made from it keeps it open
        return line

    def job(self, name: str, harness: Harness, path: Path, capacity: int | None, **arguments: Any) -> Job:
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
        self._control.say({"name": name, "recipe": recipe, "path": str(path), "capacity": capacity, **arguments})
        answer = self._control.hear() or {"error": "the process that starts children died"}
        if "error" in answer:
            raise NotSpawnable(f"{harness.name} cannot be opened in another process:\n{answer['error']}")
        line = self._accept()
        hello = line.hear() or {}
        return Job(self, line, int(hello["pid"]))

    def ended(self) -> None:
        """Wait for the child's end, and note its status."""
        answer = self._control.hear() or {}
        self.status = int(answer.get("status", 0))

    def close(self) -> None:
        """End the server."""
        self._process.kill()
        self._process.wait()
        self._listener.close()
        shutil.rmtree(self._directory, ignore_errors=True)


_lock = threading.Lock()
_zygote: Zygote | None = None


def zygote() -> Zygote:
    """The server of this process, started on first use, ended at exit."""
    global _zygote
    with _lock:
        if _zygote is None:
            _zygote = Zygote()
            atexit.register(end)
        return _zygote


def end() -> None:
    """End the server of this process, if there is one."""
    global _zygote
    with _lock:
        if _zygote is not None:
            _zygote.close()
            _zygote = None
