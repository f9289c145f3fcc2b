"""The child of `supervise`: runs the kit and tells what it does, so that nothing is lost when it dies.

Run as ``python -m lms_conformance.supervised DESCRIPTOR DIRECTORY``.
"""

from __future__ import annotations

import contextlib
import datetime
import faulthandler
import logging
import os
import shutil
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from lms_conformance import spawned
from lms_conformance.line import Line
from lms_conformance.outcome import Status
from lms_conformance.places import VARIABLE
from lms_conformance.recipes import load_harness
from lms_conformance.run import Run, prepare
from lms_conformance.violation import ConformanceError
from lms_conformance.waivers import Waiver
from lms_tiers.errors import ConfigError


def main(descriptor: int, directory: Path) -> None:
    """Hear what to run, run it, tell each result."""
    # What is damaged or forgotten here on purpose is told by the property, not by the log.
    logging.getLogger().addHandler(logging.NullHandler())
    connection = socket.socket(fileno=descriptor)
    line = Line(connection)
    job = line.hear()
    threading.Thread(target=_outlive_nobody, args=(connection, directory), daemon=True, name="conformance-end").start()
    assert job is not None
    with (directory / "stacks").open("w") as stacks, (directory / "journal").open("w", encoding="utf-8") as journal:
        faulthandler.enable(stacks)
        try:
            run = prepare(
                load_harness(job["recipe"]), profile=job["profile"], seed=job["seed"], only=job["only"],
                spec=job["spec"], waivers=_waivers(job["waivers"]), examples=_path(job["examples"]), journal=journal,
                strict=job["strict"], exact=job["exact"],
            )  # fmt: skip
        except (ConfigError, ConformanceError) as error:
            line.say({"refused": type(error).__name__, "message": str(error)})
        else:
            _run(run, line)
            run.engine.harness.end()
        spawned.end()
        # What a backend does when the interpreter ends is no promise of the contract.
        os._exit(0)


def _outlive_nobody(connection: socket.socket, directory: Path) -> None:
    """End this process and its own, and what they left, when the parent has gone."""
    with contextlib.suppress(OSError):
        connection.recv(1, socket.MSG_PEEK)
    shutil.rmtree(directory, ignore_errors=True)
    if in_memory := os.environ.get(VARIABLE):
        shutil.rmtree(in_memory, ignore_errors=True)
    os.killpg(os.getpid(), signal.SIGKILL)


def _run(run: Run, line: Line) -> None:
    line.say({"report": run.report.to_json()})
    run.engine.on_look = lambda: line.say({"alive": True})
    for p in run.chosen:
        line.say({"began": p.id, "patience": run.engine.profile.hang_seconds})
        result = run.result(p)
        line.say({"result": result.to_json()})
        if result.status is Status.HUNG:
            return  # its threads are still about: the rest runs in another process
    line.say({"done": True})


def _waivers(told: list[dict[str, Any]]) -> list[Waiver]:
    return [Waiver(w["property"], w["reason"], datetime.date.fromisoformat(w["expires"])) for w in told]


def _path(told: str | None) -> Path | None:
    return None if told is None else Path(told)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
