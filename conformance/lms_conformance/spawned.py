"""The processes beside a run: the fork server `zygote`, whose children crash properties kill, and the servers."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from lms_conformance import gauges
from lms_conformance.companion import SILENCE, Companion
from lms_conformance.line import Line
from lms_conformance.power.build import recorder
from lms_conformance.servers_beside import ServersBeside
from lms_conformance.violation import violate


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
