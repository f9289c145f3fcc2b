"""The report as JSON (lossless) and as the JSON that shields.io's endpoint badge reads."""

from __future__ import annotations

import dataclasses
import json

from lms_conformance.outcome import VACUOUS, Report, Result, Status

#: Version of this file's own form.
FORM = 1


def to_json(report: Report) -> str:
    """Everything, indented."""
    data = dataclasses.asdict(report)
    data["results"] = [r.to_json() for r in report.results]
    counts = {s.value: report.count(s) for s in Status if report.count(s)}
    return json.dumps(
        {"form": FORM, "ok": report.ok, "badge": report.badge, "required": report.required, "counts": counts, **data},
        indent=2,
    )


def from_json(text: str) -> Report:
    """The inverse of `to_json`."""
    data = json.loads(text)
    for derived in ("form", "ok", "badge", "required", "counts"):
        data.pop(derived)
    data["results"] = [Result.from_json(r) for r in data["results"]]
    return Report(**data)


def badge_json(report: Report) -> str:
    """For ``https://img.shields.io/endpoint?url=…``."""
    whole = report.complete and not report.count(*VACUOUS) and not report.cut
    colour = "brightgreen" if report.ok and whole else "yellow" if report.ok else "red"
    return json.dumps({"schemaVersion": 1, "label": "lms conformance", "message": report.badge, "color": colour})
