"""The process that crash properties kill: a fork server, clean of backends and threads, one child per job.

Run as ``python -m lms_conformance.zygote SOCKET``. It imports what jobs need once, then forks before any backend is
opened, so that killing a child costs milliseconds instead of an interpreter's start. The parent's side is `spawned`.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import importlib.util
import json
import logging
import os
import pickle
import socket
import sys
import traceback
from typing import Any

from lms_conformance.harness import Harness


def load_harness(recipe: dict[str, Any]) -> Harness:
    """The harness that `Harness.recipe` described."""
    for entry in recipe["path"]:
        if entry not in sys.path:
            sys.path.append(entry)
    for name, file in recipe["modules"]:
        if name in sys.modules:
            continue
        try:
            importlib.import_module(name)
        except ImportError:
            # A test file that pytest imported by its path: no import system finds it by name.
            spec = importlib.util.spec_from_file_location(name, file)
            if spec is None or spec.loader is None:
                raise
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
    harness = pickle.loads(base64.b64decode(recipe["harness"]))
    assert isinstance(harness, Harness)
    return harness


class Line:
    """A line of JSON each way over the job's socket."""

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
