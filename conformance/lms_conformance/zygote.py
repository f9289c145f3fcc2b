"""The process that crash properties kill: a fork server, clean of backends and threads, one child per job.

Run as ``python -m lms_conformance.zygote SOCKET``. It imports what jobs need once, then forks before any backend is
opened, so that killing a child costs milliseconds instead of an interpreter's start. The parent's side is `spawned`.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import traceback

from lms_conformance.line import Line
from lms_conformance.recipes import load_harness


def main(path: str) -> None:
    """Serve jobs until the parent hangs up."""
    # What is damaged here on purpose is told by the property, not by the log.
    logging.getLogger().addHandler(logging.NullHandler())
    import torch  # noqa: F401  # before any fork: it costs seconds

    import lms_tiers.factory
    import lms_tiers.registry
    from lms_conformance import crash_jobs

    lms_tiers.registry.default_registry()
    control = socket.socket(socket.AF_UNIX)
    control.connect(path)
    line = Line(control)
    line.say({"pid": os.getpid()})
    while (job := line.hear()) is not None:
        try:
            load_harness(job["recipe"])
        except Exception:
            line.say({"error": traceback.format_exc()})
            continue
        pid = os.fork()
        if pid == 0:
            crash_jobs.child(job, path)
            os._exit(0)
        line.say({"child": pid})
        _, status = os.waitpid(pid, 0)
        line.say({"status": status})


if __name__ == "__main__":
    main(sys.argv[1])
