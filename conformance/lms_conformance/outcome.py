"""What a run found: one `Result` per property, one `Report` per run. Rendering is in `reports`."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass, field
from typing import Any


class Status(enum.Enum):
    """How a property ended."""

    PASSED = "passed"
    FAILED = "failed"
    HUNG = "hung"
    CRASHED = "crashed"
    ERROR = "error"
    NOT_RUN = "not run"
    WAIVED = "waived"
    STALE_WAIVER = "waived but passes"
    WARNED = "fails, newer than the spec"
    VACUOUS = "vacuous"
    WARNED_VACUOUS = "vacuous, newer than the spec"
    NOT_APPLICABLE = "not applicable"


#: What turns a run red.
RED = frozenset(
    {
        Status.FAILED, Status.HUNG, Status.CRASHED, Status.ERROR, Status.NOT_RUN, Status.STALE_WAIVER, Status.VACUOUS,
    }
)  # fmt: skip

#: Passes that reached not every state which their property names.
VACUOUS = frozenset({Status.VACUOUS, Status.WARNED_VACUOUS})


@dataclass(slots=True)
class Result:
    """One property's outcome.

    Attributes
    ----------
    id, sentence : str
    status : Status
    seconds : float
    examples, calls : int
        Drawn examples or repetitions that ran (1 for a fixed scenario), and calls made to backends.
    wanted : int
        Examples that the profile wants; fewer ran where they took too long (`cut`).
    marks : dict of str to int
        The states that were reached, of those that the property names, and how often.
    reason : str
        Why it does not apply, was waived, or did not run.
    expected, got : str
    program : str
        Python that shows the failure.
    kind : str
        ``assertion`` where a check of the property failed, ``raised`` where a call raised what no check foresaw.
    trace : str
        Traceback or thread stacks, where they say more.
    """

    id: str
    sentence: str
    status: Status
    seconds: float = 0.0
    examples: int = 0
    calls: int = 0
    reason: str = ""
    expected: str = ""
    got: str = ""
    program: str = ""
    kind: str = ""
    trace: str = ""
    wanted: int = 0
    marks: dict[str, int] = field(default_factory=dict)

    @property
    def cut(self) -> bool:
        """Whether it passed on fewer examples than the profile wants."""
        return self.examples < self.wanted and self.status in (Status.PASSED, Status.STALE_WAIVER, *VACUOUS)

    @property
    def effort(self) -> str:
        """Examples run, of those wanted where that is more."""
        return f"{self.examples} of {self.wanted}" if self.cut else str(self.examples)

    @property
    def red(self) -> bool:
        """Whether it fails the run."""
        return self.status in RED

    @property
    def family(self) -> str:
        """The part of the ID before the dash."""
        return self.id.partition("-")[0]

    def message(self) -> str:
        """The failure as a person reads it: sentence, program, expected, got."""
        lines = [f"{self.id}: {self.sentence}", f"  {self.status.value}"]
        if self.reason:
            lines.append(f"  {self.reason}")
        if self.expected:
            lines += [f"  expected: {self.expected}", f"  got:      {self.got}"]
        if self.program:
            lines += ["", *("    " + line for line in self.program.splitlines())]
        if self.trace:
            lines += ["", *("    " + line for line in self.trace.splitlines())]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**dataclasses.asdict(self), "status": self.status.value}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Result:
        """The inverse of `to_json`."""
        return cls(**{**data, "status": Status(data["status"])})


@dataclass(slots=True)
class Report:
    """One run.

    Attributes
    ----------
    subject : str
        Name or device.
    backend : str
        The class that was opened.
    plugin : str
        Distribution and version it came with.
    spec, kit, profile : str
    seed : int
    capabilities : dict
    environment : dict
    results : list of Result
    only : list of str
        The properties that were chosen; empty where all were.
    strict : bool
        What would only warn under `spec` counted, too.
    started : str
        ISO time.
    seconds : float
    """

    subject: str
    backend: str
    plugin: str
    spec: str
    kit: str
    profile: str
    seed: int
    capabilities: dict[str, Any]
    environment: dict[str, str]
    results: list[Result] = field(default_factory=list)
    started: str = ""
    seconds: float = 0.0
    complete: bool = True
    only: list[str] = field(default_factory=list)
    strict: bool = False

    def count(self, *statuses: Status) -> int:
        """How many results have one of `statuses`."""
        return sum(r.status in statuses for r in self.results)

    @property
    def required(self) -> int:
        """Properties that had to pass."""
        return len(self.results) - self.count(Status.NOT_APPLICABLE, Status.WARNED)

    @property
    def ok(self) -> bool:
        """Whether the run is green: something was required, everything required ran, nothing is red."""
        return self.required > 0 and not any(r.red for r in self.results)

    @property
    def cut(self) -> list[Result]:
        """Properties that passed on fewer examples than the profile wants."""
        return [r for r in self.results if r.cut]

    @property
    def badge(self) -> str:
        """For example ``spec 1.0 · 84/84 · 0 waived · 0 vacuous · 2 cut``; nothing is said of cuts where none was."""
        parts = [
            f"spec {self.spec}", f"{self.count(Status.PASSED)}/{self.required}", f"{self.count(Status.WAIVED)} waived",
            f"{self.count(*VACUOUS)} vacuous",
        ]  # fmt: skip
        if self.cut:
            parts.append(f"{len(self.cut)} cut")
        return " · ".join(parts if self.complete else [*parts, "partial"])

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**dataclasses.asdict(self), "results": [r.to_json() for r in self.results]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Report:
        """The inverse of `to_json`."""
        return cls(**{**data, "results": [Result.from_json(r) for r in data["results"]]})

    def failures(self) -> list[Result]:
        """The red results."""
        return [r for r in self.results if r.red]
