"""One execution of a property of adapters: the drives it opened, and why it was found not to apply."""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

from lms_conformance import gauges
from lms_conformance.adapters.driven import Driven
from lms_conformance.adapters.harness import AdapterHarness
from lms_conformance.damage import files_below
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import Violation, expect, violate

#: Seconds after which a call that may wait is taken for one that hangs.
PATIENCE: Final = 30.0


class NotApplicable(Exception):
    """Met while a property ran: the adapter has no such thing. The text says what."""


class AdapterTrial(Trial):
    """What the check of a property of adapters gets; backends are drives here."""

    harness: AdapterHarness

    def adapter(self, path: Path | None = None, **how: Any) -> Any:
        """A drive of an adapter in a fresh directory, or at `path`; see the interface for `how`."""
        place = self.directory() if path is None else path
        self._number += 1
        var = "adapter" if self._number == 1 else f"adapter{self._number}"
        where = f"path{self._named.index(place) + 1}" if place in self._named else repr(str(place))
        self.record("".join([f"{var} = open_adapter({where}", *(f", {k}={v!r}" for k, v in how.items()), ")"]))
        try:
            drive = self.harness.drive(place, **how)
        except Violation:
            raise
        except Exception as error:
            violate("the adapter to open", f"{type(error).__name__}: {error}")
        drive.path, drive.record, drive.var = place, self, var
        self._opened.append(cast(Subject, _Opened(drive)))
        return drive

    def shut(self, drive: Driven) -> None:
        """Close an adapter before the end."""
        (opened,) = [o for o in self._opened if cast(_Opened, o).drive is drive]
        self._opened.remove(opened)
        self.record(f"{drive.var}.close()")
        self.within(PATIENCE, drive.close, "close")

    def again(self, drive: Driven, **how: Any) -> Any:
        """Close an adapter, and open one at its place."""
        self.shut(drive)
        return self.adapter(drive.path, **how)

    def killed(self, calls: Sequence[str], path: Path, **how: Any) -> None:
        """Make the calls of a drive in a process of its own, which is killed after the last.

        Raises
        ------
        NotApplicable
            Another process cannot have the harness.
        """
        if self.harness.recipe() is None:
            raise NotApplicable("another process cannot have this harness: make it importable")
        for call in calls:
            self.record(f"# in another process: adapter.{call}")
        self.record("# which is killed (SIGKILL)")
        job = pickle.dumps((self.harness, str(path), how, list(calls)))
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        done = subprocess.run(
            [sys.executable, "-m", "lms_conformance.adapters.victim"], input=job, capture_output=True, check=False,
            timeout=120 * gauges.busy(), env=environ,
        )  # fmt: skip
        expect(
            done.returncode == -signal.SIGKILL, "a process with the adapter to make its calls",
            f"it ended with {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}",
        )  # fmt: skip

    def keeps(self, drive: Driven) -> None:
        """Go on only where what is stored lies in files of the adapter's place.

        Raises
        ------
        NotApplicable
            It keeps nothing there.
        """
        if not any(files_below(drive.path)):
            raise NotApplicable("it keeps no files in its place")

    @contextlib.contextmanager
    def full(self, drive: Driven, room: int = 0) -> Iterator[None]:
        """Let no file of this process grow beyond `room` bytes (RLIMIT_FSIZE): a medium that takes no more."""
        code = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, hard))"
        self.record("import resource; _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.record(code)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            self.record("resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))")

    def end(self, patience: float = PATIENCE) -> None:
        """Close what is open and remove what was written."""
        super().end(patience)
        for path in self._directories:
            shutil.rmtree(path, ignore_errors=True)


class _Opened:
    """A drive in the place of a backend."""

    def __init__(self, drive: Driven) -> None:
        self.drive = drive
        self.backend = drive
        self.path = drive.path
