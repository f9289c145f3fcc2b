"""What the tests of the doors want of the kit: its properties on an adapter, and its zoo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lms_conformance.adapters.broken import Broken, hunt, zoo
from lms_conformance.adapters.run import run_adapter
from lms_conformance.outcome import Report, Status
from lms_conformance.zoo.hunt import caught


def keeps(harness: Any, without: Sequence[str] = (), only: Sequence[str] = ()) -> Report:
    """The adapter keeps every property but those `without`, which do not apply to it."""
    report = run_adapter(harness, profile="quick", only=only)
    assert report.ok, "\n\n".join(result.message() for result in report.failures())
    skipped = {r.id: r.reason for r in report.results if r.status is Status.NOT_APPLICABLE}
    assert sorted(skipped) == sorted(without), skipped
    return report


def catches(name: str, one: Broken) -> None:
    """Each property that must catch a broken adapter does, by its own assertion."""
    missed = {id: result for id, result in hunt(zoo(name), one).items() if not caught(result)}
    assert not missed, f"{one.sentence}\n" + "\n".join(result.message() for result in missed.values())
