"""One execution of a property: fresh backends, the recorded program, threads with a time limit, and clean-up."""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from lms_conformance import gauges
from lms_conformance.gauges import PREFIX
from lms_conformance.harness import Harness
from lms_conformance.profiles import Profile
from lms_conformance.record import Line, Record
from lms_conformance.subject import Subject
from lms_conformance.violation import Violation, violate
from lms_tiers.errors import LmsTiersError
from lms_tiers.interface import Capabilities


class Trial(Record):
    """What the check of a property gets.

    Attributes
    ----------
    harness : Harness
    caps : Capabilities
        As the opened backend declares them.
    profile : Profile
    rng : random.Random
        Seeded by the run's seed and the property's ID.
    have : frozenset of str
        See `lms_conformance.spec.NEEDS`.
    folder : str or None
        Where directories are made; None where temporary files are.
    rounds_run, rounds_wanted : int
        Repetitions that the check itself made; see `rounds`.
    """

    def __init__(
        self,
        harness: Harness,
        caps: Capabilities,
        have: frozenset[str],
        profile: Profile,
        rng: random.Random,
        journal: IO[str] | None = None,
        exact: int | None = None,
    ) -> None:
        self.harness = harness
        self.caps = caps
        self.have = have
        self.profile = profile
        self.rng = rng
        super().__init__(journal)
        self.rounds_run = self.rounds_wanted = 0
        self.folder: str | None = None
        self._exact = exact
        self._told = ""
        self._opened: list[Subject] = []
        self._places: dict[Path, int | None] = {}
        self._directories: list[Path] = []
        self._named: list[Path] = []
        self._number = 0

    # -- backends ----------------------------------------------------------------------------------------------------

    def directory(self) -> Path:
        """A fresh empty directory, removed at the end."""
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self.folder))
        self._directories.append(path)
        self._named.append(path)
        return path

    def open(self, capacity: int | None = None, path: Path | None = None, *, impatient: bool = False) -> Subject:
        """A fresh backend, or one at `path`; an impatient one keeps the harness' deadline."""
        place = self.directory() if path is None else path
        if not self.harness.takes_capacity:
            capacity = None
        var, line = self._announce(place, capacity)
        opener = self.harness.open_impatient if impatient else self.harness.open
        return self._opening(lambda: opener(place, capacity), line, var, place, capacity)

    def reopen(self, subject: Subject) -> Subject:
        """The same place again; `subject` was closed, or its process died."""
        path, capacity = subject.path, subject.capacity
        var, line = self._announce(path, capacity)
        return self._opening(lambda: self.harness.reopen(path, capacity), line, var, path, capacity)

    def leaves(self, path: Path, capacity: int | None) -> None:
        """What a backend that was not opened here puts at `path` is removed at the end, as that of the others is."""
        self._places[path] = capacity

    def _announce(self, path: Path, capacity: int | None) -> tuple[str, Line]:
        self._number += 1
        var = "backend" if self._number == 1 else f"backend{self._number}"
        where = f"path{self._named.index(path) + 1}" if path in self._named else repr(str(path))
        return var, self.record(f"{var} = open_backend({where}{f', capacity={capacity}' if capacity else ''})")

    def _opening(self, call: Callable[[], Any], line: Line, var: str, path: Path, capacity: int | None) -> Subject:
        self._places[path] = capacity
        try:
            backend = call()
        except Exception as error:
            line.comment = f"raises {type(error).__name__}"
            raise
        subject = Subject(self, backend, var, path, capacity)
        self._opened.append(subject)
        return subject

    def allows(self, call: Callable[[], Any], what: str) -> Any:
        """`call` raises nothing."""
        try:
            return call()
        except Violation:
            raise
        except Exception as error:
            violate(f"{what} to raise nothing", f"{type(error).__name__}: {error}")

    def release(self, subject: Subject) -> None:
        """Close a backend before the trial ends, in a thread that may be left behind."""
        self._opened.remove(subject)
        self.within(30, subject.backend.close, "close after all calls returned")
        if any(other.path == subject.path for other in self._opened):
            return  # another instance is there still
        self._clean(30, {subject.path})
        self.harness.stop(subject.path)
        if subject.path in self._directories:
            shutil.rmtree(subject.path, ignore_errors=True)

    def end(self, patience: float = 8) -> None:
        """Close what is open and remove what was written.

        Raises
        ------
        Violation
            A `close` raised.
        """
        problem: Exception | None = None
        opened = list(self._opened)
        for subject in reversed(opened):
            try:
                self.within(patience, subject.backend.close, "close")
            except Exception as error:
                problem = error
        self._opened.clear()
        self._clean(patience, set(self._places))
        for path in {subject.path for subject in opened} | set(self._directories):
            self.harness.stop(path)
        for path in self._directories:
            shutil.rmtree(path, ignore_errors=True)
        if isinstance(problem, Violation):
            raise problem
        if problem is not None:
            raise Violation("close to raise nothing", f"{type(problem).__name__}: {problem}", kind="raised")

    def _clean(self, patience: float, paths: set[Path]) -> None:
        """Remove what is left where no directory holds it; a backend that cannot do that is told so by a property."""
        if self.harness.local:
            return
        for path in paths & self._places.keys():
            with contextlib.suppress(Violation, LmsTiersError):
                self.within(patience, partial(self.harness.clean, path, self._places.pop(path)), "cleaning up")

    # -- the program -------------------------------------------------------------------------------------------------

    def anew(self) -> None:
        """What follows does not depend on what was done before: a failure prints only what follows."""
        self.lines.clear()
        self._begin_journal()
        self._named.clear()
        self._number = 0

    def rounds(self, wanted: int, least: int | None = None, seconds: float = 0.0) -> Iterator[int]:
        """Numbers of the repetitions of a check, up to `wanted`.

        After `seconds`, or as much longer as the machine is busy, no further one begins, once `least` ran (by default
        all); the report says how many did. A run that is reproduced makes as many as it made then.
        """
        self.rounds_wanted += wanted
        began = time.monotonic()
        for i in range(wanted if self._exact is None else min(self._exact, wanted)):
            late = least is not None and i >= least and time.monotonic() - began > seconds * gauges.busy()
            if late and self._exact is None:
                return
            self.rounds_run += 1
            yield i

    def tell(self, code: str) -> None:
        """Make `code`, which opens its own backend at ``path1``, the program that a failure prints."""
        self._told = code

    def program(self, header: str, violation: Violation | None) -> str:
        """The recorded calls as Python that runs."""
        body = [self._told] if self._told else []
        for line in self.lines if not self._told else ():
            comment = f"  # {line.comment}" if line.comment else ""
            body.append(line.code + (comment if "\n" not in line.code else ""))
        paths = 1 if self._told else len(self._named)
        tail = []
        if violation is not None:
            tail = [violation.code] if violation.code else []
            tail += [
                f"# expected: {violation.expected}".replace("\n", "\n# "),
                f"# got: {violation.got}".replace("\n", "\n# "),
            ]
        return program(header, self.harness, paths, [*body, *tail])

    # -- time and threads --------------------------------------------------------------------------------------------

    def within(self, seconds: float, call: Callable[[], Any], what: str) -> Any:
        """Run `call` in a thread; a violation where it has not returned after `seconds`."""
        return self.threads([call], seconds, what)[0]

    def threads(self, calls: Sequence[Callable[[], Any]], seconds: float, what: str) -> list[Any]:
        """Run the calls in a thread each; what they return, or the first exception."""
        answers: list[Any] = [None] * len(calls)
        errors: list[BaseException] = []

        def work(i: int, call: Callable[[], Any]) -> None:
            try:
                answers[i] = call()
            except BaseException as error:
                errors.append(error)

        workers = [
            threading.Thread(target=work, args=(i, call), daemon=True, name=f"conformance-{i}")
            for i, call in enumerate(calls)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            if not gauges.ends(worker, seconds):
                violate(f"{what} to return within {seconds:g} s", "it did not (see the stacks)" + _stack_of(worker))
        for error in errors:
            raise error
        return answers


def program(header: str, harness: Harness, paths: int, body: Sequence[str]) -> str:
    """Lines of a program as Python that runs, with what they need before them."""
    head = ["import pathlib", "import tempfile", "from lms_conformance.chunks import Chunk, DuckKey, key, same"]
    places = [f"path{i + 1} = pathlib.Path(tempfile.mkdtemp())" for i in range(paths)]
    return "\n".join([f"# {header}", *head, harness.source(), *places, *body])


def _stack_of(thread: threading.Thread) -> str:
    import sys
    import traceback

    frame = sys._current_frames().get(thread.ident or 0)
    return "" if frame is None else "\n" + "".join(traceback.format_stack(frame)[-6:])


def foreseen(error: BaseException) -> Violation:
    """An error of the taxonomy that no check foresaw, as a violation."""
    if isinstance(error, Violation):
        return error
    return Violation(
        "the calls of this property to succeed" if isinstance(error, LmsTiersError) else "no such error",
        f"{type(error).__name__}: {error}",
        kind="raised",
    )
