"""The report as JUnit XML, for the test tabs of CI systems."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from lms_conformance.outcome import Report, Status

_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


#: What a CI system calls a failure; the rest of what is red it calls an error.
_FAILURES = (Status.FAILED, Status.STALE_WAIVER, Status.VACUOUS)


def _clean(text: str) -> str:
    # XML 1.0 cannot carry most control characters, not even escaped.
    return _ILLEGAL.sub(lambda m: repr(m.group())[1:-1], text)


def to_junit(report: Report) -> str:
    """One suite, one case per property; the family is the class name."""
    skipped = report.count(Status.NOT_APPLICABLE, Status.WAIVED, Status.WARNED, Status.WARNED_VACUOUS)
    errors = report.count(Status.ERROR, Status.HUNG, Status.CRASHED, Status.NOT_RUN)
    failed = report.count(*_FAILURES)
    suite = ElementTree.Element(
        "testsuite", name=f"lms-conformance {_clean(report.subject)}", tests=str(len(report.results)),
        failures=str(failed), errors=str(errors), skipped=str(skipped), time=f"{report.seconds:.3f}",
        timestamp=report.started,
    )  # fmt: skip
    properties = ElementTree.SubElement(suite, "properties")
    for name in ("backend", "plugin", "spec", "kit", "profile", "seed"):
        ElementTree.SubElement(properties, "property", name=name, value=str(getattr(report, name)))
    for r in report.results:
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"lms_conformance.{r.family}", name=f"{r.id}: {_clean(r.sentence)}",
            time=f"{r.seconds:.3f}",
        )  # fmt: skip
        if r.examples:
            noted = {"examples": r.effort, **{f"reached: {state}": str(count) for state, count in r.marks.items()}}
            told = ElementTree.SubElement(case, "properties")
            for name, value in noted.items():
                ElementTree.SubElement(told, "property", name=name, value=value)
        if r.red:
            tag = "failure" if r.status in _FAILURES else "error"
            node = ElementTree.SubElement(
                case, tag, message=_clean(r.got or r.reason or r.status.value), type=r.status.value
            )
            node.text = _clean(r.message())
        elif r.status is not Status.PASSED:
            ElementTree.SubElement(case, "skipped", message=_clean(f"{r.status.value}: {r.reason}"))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
