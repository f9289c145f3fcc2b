"""A process beside this one, which runs a module of the kit, and the line to it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from lms_conformance import gauges
from lms_conformance.line import Line

#: Seconds a child may be silent.
SILENCE = 60.0


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
