"""Runs the kit in a process of its own, so that a backend that kills it is a result and the rest still runs.

The child is `supervised`. What it leaves in temporary directories goes with it, however it ends.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lms_conformance import gauges
from lms_conformance.harness import Harness
from lms_conformance.line import Line
from lms_conformance.outcome import Report, Result, Status
from lms_conformance.places import VARIABLE, memory
from lms_conformance.profiles import profile as profile_named
from lms_conformance.run import run_properties, weigh
from lms_conformance.spec import SPEC_VERSION, properties
from lms_conformance.trial import program
from lms_conformance.violation import ConformanceError
from lms_conformance.waivers import Waiver, by_property
from lms_tiers.errors import ConfigError

#: Seconds to import and to open the backend once, and seconds more than a property's own limit before a child that
#: does not even say that it hangs is killed: native code that never gives the interpreter back.
GRACE: Final = 120.0

#: Seconds to hear what a process said before it ended.
_LAST_WORDS: Final = 30.0


def run_supervised(
    harness: Harness,
    *,
    profile: str = "ci",
    seed: int | None = None,
    only: Iterable[str] = (),
    spec: str = SPEC_VERSION,
    waivers: Sequence[Waiver] = (),
    on_result: Callable[[Result], None] | None = None,
    examples: Path | None = None,
    strict: bool = False,
    exact: Mapping[str, int] | None = None,
) -> Report:
    """`run_properties` in a process of its own; see there.

    A property during which that process dies has `Status.CRASHED`; the rest runs in a new one. A harness that no other
    process can have (a closure) runs in this one.
    """
    recipe = harness.recipe()
    if recipe is None:
        return run_properties(
            harness, profile=profile, seed=seed, only=only, spec=spec, waivers=waivers, on_result=on_result,
            examples=examples, strict=strict, exact=exact,
        )  # fmt: skip
    only = list(only)
    granted = by_property([*harness.waivers, *waivers], (p.id for p in properties()))
    job = {
        "recipe": recipe, "profile": profile, "spec": spec, "examples": examples and str(examples), "strict": strict,
        "exact": dict(exact or {}),
        "waivers": [{"property": w.property, "reason": w.reason, "expires": w.expires.isoformat()} for w in waivers],
    }  # fmt: skip
    began = time.monotonic()
    report: Report | None = None
    while True:
        child = _Child({**job, "only": only, "seed": seed if report is None else report.seed}, harness)
        report = child.run(report, spec, granted, on_result)
        only = [k for k in _chosen(only) if k not in {r.id for r in report.results}]
        if not only:
            report.seconds = time.monotonic() - began
            return report


def _chosen(only: list[str]) -> list[str]:
    from lms_conformance.spec import select

    return [p.id for p in select(only)]


class _Child:
    """One process of a run."""

    def __init__(self, job: dict[str, Any], harness: Harness) -> None:
        self._job = job
        self._harness = harness
        self._directory = Path(tempfile.mkdtemp(prefix=gauges.PREFIX))
        folder = memory() if profile_named(job["profile"]).in_memory else None
        self._memory = None if folder is None else tempfile.mkdtemp(prefix=gauges.PREFIX, dir=folder)
        self._silent = False
        self._heard: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def run(
        self,
        report: Report | None,
        spec: str,
        granted: dict[str, Waiver],
        on_result: Callable[[Result], None] | None,
    ) -> Report:
        """Take its results over until it has ended; then what it left is gone."""
        running, patience, done = "", GRACE, False
        before = 0 if report is None else len(report.results)
        with self._process() as process:
            while (message := self._next(process, patience)) is not None:
                if "refused" in message:
                    raise (ConfigError if message["refused"] == "ConfigError" else ConformanceError)(message["message"])
                if "report" in message:
                    report = report or Report.from_json(message["report"])
                elif "began" in message:
                    running, patience = message["began"], message["patience"] + GRACE
                elif "result" in message:
                    assert report is not None
                    running = ""
                    report.results.append(Result.from_json(message["result"]))
                    if on_result is not None:
                        on_result(report.results[-1])
                done |= "done" in message
            ended = process.wait(GRACE)
            if report is None or not (running or len(report.results) > before):
                raise ConformanceError(f"opening {self._harness.name} {_end_of(ended)}\n{self._stacks()}")
            if running:
                result = self._crash(running, ended)
                p = next(p for p in properties() if p.id == running)
                waiver, today = granted.get(running), datetime.date.today()
                report.results.append(weigh(result, p, spec, waiver, today, strict=report.strict))
                if on_result is not None:
                    on_result(report.results[-1])
            elif ended and not done:
                last = report.results[-1]
                last.status = Status.CRASHED
                last.reason = f"after it the process {_end_of(ended)}"
                last.trace = self._stacks()
        return report

    @contextlib.contextmanager
    def _process(self) -> Iterator[subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair()
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "TMPDIR": str(self._directory),
            VARIABLE: self._memory or "",
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", "lms_conformance.supervised", str(theirs.fileno()), str(self._directory)],
            env=environment, stdin=subprocess.DEVNULL, stdout=2, pass_fds=[theirs.fileno()], start_new_session=True,
        )  # fmt: skip
        theirs.close()
        line = Line(ours)
        reader = threading.Thread(target=self._listen, args=(line,), daemon=True, name="lms-conformance-reader")
        try:
            line.say(self._job)
            reader.start()
            yield process
        finally:
            # Its own processes (the fork server, servers, forked children) are of its session and end with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            with contextlib.suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
            if reader.ident is not None:
                reader.join()
            line.close()
            ours.close()
            shutil.rmtree(self._directory, ignore_errors=True)
            if self._memory:
                shutil.rmtree(self._memory, ignore_errors=True)

    def _listen(self, line: Line) -> None:
        with contextlib.suppress(OSError, ValueError):
            while (message := line.hear()) is not None:
                self._heard.put(message)
        self._heard.put(None)

    def _next(self, process: subprocess.Popen[bytes], patience: float) -> dict[str, Any] | None:
        """What it says next; None when it has ended, or was killed because it said nothing for so long."""
        began = time.monotonic()
        while True:
            dead = process.poll() is not None
            if dead:
                # What it started may hold its end of the line open.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(queue.Empty):
                # What was said before the end is heard before the end is believed: the reader says when that is all.
                return self._heard.get(timeout=_LAST_WORDS if dead else 0.1)
            if dead:
                return None
            if time.monotonic() > began + patience * gauges.busy():
                self._silent = True
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _crash(self, running: str, ended: int | None) -> Result:
        p = next(p for p in properties() if p.id == running)
        result = Result(p.id, p.sentence, Status.HUNG if self._silent else Status.CRASHED)
        result.expected = "the process with the backend to survive the property"
        result.got = "it did not answer any more, and was killed" if self._silent else f"it {_end_of(ended)}"
        result.trace = self._stacks()
        with contextlib.suppress(OSError):
            body = (self._directory / "journal").read_text(encoding="utf-8").splitlines()
            result.program = program(f"{p.id}: {p.sentence}", self._harness, 1, [*body, f"# {result.got}"])
        return result

    def _stacks(self) -> str:
        with contextlib.suppress(OSError):
            return (self._directory / "stacks").read_text(encoding="utf-8", errors="replace")
        return ""


def _end_of(status: int | None) -> str:
    if status is not None and status < 0:
        return f"died of {signal.Signals(-status).name}"
    return f"ended by itself, with exit status {status}"
