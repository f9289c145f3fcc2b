"""A run that is made again from its report: the same subject, seed, properties, profile and numbers of examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lms_conformance.outcome import Report
from lms_conformance.reports import from_json
from lms_conformance.run import environment
from lms_tiers import __version__
from lms_tiers.errors import ConfigError
from lms_tiers.secrets import MASK

#: What decides which examples a seed draws.
_DRAW = ("python", "hypothesis")


@dataclass(frozen=True, slots=True)
class Past:
    """A run that was.

    Attributes
    ----------
    report : Report
    """

    report: Report

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `run_supervised` that repeat it.

        Of what passed as many examples are drawn as then, however long they take; what failed is drawn until it fails.
        """
        report = self.report
        return {
            "profile": report.profile,
            "seed": report.seed,
            "only": [r.id for r in report.results],
            "spec": report.spec,
            "strict": report.strict,
            "exact": {r.id: r.examples for r in report.results if r.examples and not r.program},
        }

    def notes(self) -> list[str]:
        """What is not as it was: versions."""
        then = {"kit": self.report.kit, **{k: self.report.environment.get(k, "?") for k in _DRAW}}
        now = {"kit": __version__, **{k: environment().get(k, "?") for k in _DRAW}}
        return [f"{k} was {then[k]} and is {now[k]}: examples may differ" for k in then if then[k] != now[k]]

    def changes(self, again: Report) -> list[str]:
        """Outcomes that differ."""
        found = {r.id: r for r in again.results}
        return [
            f"{r.id} was {r.status.value}, is {found[r.id].status.value if r.id in found else 'not run'}"
            for r in self.report.results
            if r.id not in found or found[r.id].status is not r.status
        ]


def read_past(path: Path, subject: str | None) -> tuple[Past, str]:
    """Read a report, and the subject: as it was, unless another is named.

    Raises
    ------
    ConfigError
        It cannot be read, is no report, or its device held a secret, which is not in it.
    """
    try:
        report = from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no report of `conform --json`: {type(error).__name__}: {error}") from error
    if subject is None and MASK in report.subject:
        raise ConfigError(f"the device of {path} held a secret: name it again, before --reproduce.")
    return Past(report), report.subject if subject is None else subject


def told(past: Past, again: Report) -> Sequence[str]:
    """What a person wants to know after a run was repeated."""
    changes = past.changes(again)
    return changes or [f"as then: {len(again.results)} outcomes"]
