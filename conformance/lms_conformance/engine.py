"""Runs one property: draws and shrinks with hypothesis, watches for hangs, and says what happened."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import hypothesis
from hypothesis.database import DirectoryBasedExampleDatabase

from lms_conformance import gauges
from lms_conformance.harness import Harness
from lms_conformance.outcome import Result, Status
from lms_conformance.places import folder_of
from lms_conformance.profiles import Profile
from lms_conformance.spec import Property
from lms_conformance.trial import Trial, foreseen
from lms_conformance.violation import Violation
from lms_tiers.errors import LmsTiersError
from lms_tiers.interface import Capabilities

#: A property is looked at so often in the time after which it is hung, and may take so many times as long in all.
LOOKS: Final = 10
PATIENCE: Final = 10


class _Enough(BaseException):
    """Ends the drawing of a property when its time is over; no `Exception`, which would be a failing example."""


@dataclass(slots=True)
class _Course:
    """How far a property has come: the trial under way, calls of the trials before, states that cannot be reached."""

    trial: Trial | None = None
    before: int = 0
    impossible: dict[str, str] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        return self.before + (0 if self.trial is None else self.trial.calls)


class Engine:
    """Runs properties against one harness.

    Parameters
    ----------
    harness : Harness
    caps : Capabilities
    have : frozenset of str
    profile : Profile
    seed : int
    examples : pathlib.Path, optional
        Where failing examples are remembered between runs, in a randomised profile.
    exact : mapping of str to int, optional
        Examples of each property, however long they take, instead of as many as there is time for.
    journal : file, optional
        Takes each line of a program before its call: what is left of it when the call kills the process.

    Attributes
    ----------
    on_look : callable
        Called now and then while a property runs.
    """

    def __init__(
        self,
        harness: Harness,
        caps: Capabilities,
        have: frozenset[str],
        profile: Profile,
        seed: int,
        examples: Path | None = None,
        journal: IO[str] | None = None,
        exact: Mapping[str, int] | None = None,
    ) -> None:
        self.harness = harness
        self.caps = caps
        self.have = have
        self.profile = profile
        self.seed = seed
        self.examples = examples
        self.journal = journal
        self.exact: Mapping[str, int] = exact or {}
        self.on_look: Callable[[], None] = lambda: None

    def run(self, p: Property) -> Result:
        """The result of one property; a hang of its check is a result, too."""
        result = Result(p.id, p.sentence, Status.NOT_RUN)
        began = time.monotonic()
        course = _Course()
        worker = threading.Thread(target=self._run, args=(p, result, course), daemon=True, name=f"conformance-{p.id}")
        worker.start()
        hang = self._hangs(worker, course)
        if hang:
            # The worker may still write into its own result: answer another.
            result = Result(p.id, p.sentence, Status.HUNG, examples=result.examples, calls=course.calls)
            result.expected, result.got = hang, "a hang; the stacks of all threads follow"
            result.trace = _stacks()
        result.seconds = time.monotonic() - began
        return result

    def _hangs(self, worker: threading.Thread, course: _Course) -> str:
        """What a property that hangs did not do; empty once it has ended.

        It hangs where no call has followed the last one for `hang_seconds`. A slow medium takes its time: only after
        `PATIENCE` times as long is a property that goes on and on hung all the same.
        """
        limit = self.profile.hang_seconds
        still = 0
        for _ in range(LOOKS * PATIENCE):
            seen = course.calls
            if gauges.ends(worker, limit / LOOKS):
                return ""
            self.on_look()
            still = still + 1 if course.calls == seen else 0
            if still == LOOKS:
                return f"the property to go on within {limit:g} s"
        return f"the property to finish within {PATIENCE * limit:g} s"

    def _run(self, p: Property, result: Result, course: _Course) -> None:
        try:
            if p.given is None:
                result.wanted = 1
                self._attempt(p, result, (), course)
            else:
                self._draw(p, result, course)
        except Violation:
            return  # `_attempt` noted it
        except BaseException as error:
            result.status = Status.ERROR
            result.got = f"{type(error).__name__}: {error}"
            result.trace = traceback.format_exc()
            return
        if result.examples and result.calls:
            result.status = Status.PASSED
            _look_at_marks(p, result, course.impossible)
        else:
            result.reason = "the check ended without a single call to a backend"

    def _trial(self, rng: random.Random, exact: int | None) -> Trial:
        return Trial(self.harness, self.caps, self.have, self.profile, rng, self.journal, exact)

    def _attempt(self, p: Property, result: Result, drawn: tuple[Any, ...], course: _Course) -> None:
        exact = self.exact.get(p.id) if p.given is None else None
        trial = self._trial(random.Random(f"{self.seed}:{p.id}"), exact)
        trial.folder = folder_of(p.family, self.profile)
        course.trial = trial
        result.examples += 1
        try:
            try:
                p.check(trial, *drawn)
            except (Violation, LmsTiersError, AssertionError) as error:
                violation = foreseen(error)
                self._note(p, result, trial, violation)
                with contextlib.suppress(Violation):  # the first violation is the one to tell
                    trial.end(patience=1)
                raise violation from error
            trial.end()
        except Violation as violation:
            if result.status is not Status.FAILED:
                self._note(p, result, trial, violation)
            raise
        finally:
            result.calls += trial.calls
            course.trial, course.before = None, result.calls
            for state in p.marks:
                if trial.marks[state]:
                    result.marks[state] = result.marks.get(state, 0) + trial.marks[state]
            course.impossible.update(trial.impossible)
            if trial.rounds_wanted:
                result.examples, result.wanted = trial.rounds_run, trial.rounds_wanted

    def _note(self, p: Property, result: Result, trial: Trial, violation: Violation) -> None:
        result.status = Status.FAILED
        result.expected, result.got, result.kind = violation.expected, violation.got, violation.kind
        result.program = trial.program(f"{p.id}: {p.sentence}", violation)

    def _draw(self, p: Property, result: Result, course: _Course) -> None:
        assert p.given is not None
        profile = self.profile
        exact = self.exact.get(p.id)
        spent = 0.0
        failing = False
        failed_at = 0.0

        def examine(case: Any) -> None:
            nonlocal failing, failed_at, spent
            now = time.monotonic()
            if not failing:
                late = result.examples >= profile.least and spent > profile.example_seconds * gauges.busy()
                if late if exact is None else result.examples >= exact:
                    raise _Enough
            elif now - failed_at > profile.shrink_seconds:
                raise _Enough  # each failing case was smaller than the one before: the last one stands
            try:
                self._attempt(p, result, (case,), course)
            except Violation:
                if not failing:
                    failed_at = time.monotonic()
                failing = True
                raise
            finally:
                spent += time.monotonic() - now

        database = None
        phases = [hypothesis.Phase.generate, hypothesis.Phase.shrink]
        if self.profile.randomised and self.examples is not None:
            database = DirectoryBasedExampleDatabase(self.examples / p.id)
            phases.insert(0, hypothesis.Phase.reuse)
        settings = hypothesis.settings(
            max_examples=(wanted := max(profile.least, int(profile.examples * p.weight))),
            deadline=None,
            database=database,
            derandomize=False,
            phases=phases,
            suppress_health_check=list(hypothesis.HealthCheck),
            report_multiple_bugs=False,
            print_blob=False,
            verbosity=hypothesis.Verbosity.quiet,
        )
        test = hypothesis.seed(zlib.crc32(f"{self.seed}:{p.id}".encode()))(
            settings(hypothesis.given(p.given())(examine))
        )
        result.wanted = wanted
        try:
            test()
            result.wanted = result.examples  # there are no more of them
        except _Enough:
            if failing:
                raise Violation(result.expected, result.got, kind=result.kind) from None
        except Violation:
            raise
        except Exception:
            if not failing:
                raise
            # It failed once and not when replayed: a matter of timing, and a failure all the same.
            result.reason = "did not fail each time it was replayed: it depends on timing"
            raise Violation(result.expected, result.got, kind=result.kind) from None


def _look_at_marks(p: Property, result: Result, impossible: Mapping[str, str]) -> None:
    """A pass without the states that the property names proves nothing, or does not apply."""
    missing = [state for state in p.marks if state not in result.marks]
    if not missing:
        return
    unexplained = [state for state in missing if state not in impossible]
    if unexplained:
        result.status = Status.VACUOUS
        result.reason = f"it passed, but never reached: {', '.join(unexplained)}"
        return
    result.reason = "; ".join(f"never {state}: {impossible[state]}" for state in missing)
    if not result.marks:
        result.status = Status.NOT_APPLICABLE


def _stacks() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    out = []
    for ident, frame in sys._current_frames().items():
        out.append(f"thread {names.get(ident, ident)}:")
        out.append("".join(traceback.format_stack(frame)[-8:]))
    return "\n".join(out)
