"""Who has to die in a crash: the process with the backend, and its server where the chunks are kept by one."""

from __future__ import annotations

import signal
from typing import Any

from lms_conformance.spawned import zygote
from lms_conformance.trial import Trial

#: What a property of crashes must have reached: the process was killed, and with it what keeps the chunks.
KILLED = "killed after an answer"
DEATHS = (KILLED, "the server died")


def serve(trial: Trial, path: Any, capacity: int | None) -> None:
    """Start the server that the process is to be a client of; an lm:// server is inside that process."""
    if trial.harness.has_server and not trial.harness.local:
        trial.harness.start(path, capacity)


def server_dies(trial: Trial, path: Any) -> None:
    """A process that dies takes nothing from a server: it is the server that has to die."""
    if trial.harness.has_server and not trial.harness.local:
        trial.harness.kill(path)
        trial.harness.heal(path)
        trial.mark("the server died")


def mark_a_kill(trial: Trial) -> None:
    """Note that the process which has just ended was killed, and with it what keeps the chunks."""
    if zygote().status == signal.SIGKILL:
        trial.mark(KILLED)
    if not trial.harness.has_server or trial.harness.local:
        trial.mark("the server died")  # it was the process itself
