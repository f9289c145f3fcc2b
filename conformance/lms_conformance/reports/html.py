"""The report as one page, without scripts or anything from elsewhere, light or dark as the reader prefers."""

from __future__ import annotations

import html
from collections.abc import Iterator
from importlib import resources

from lms_conformance.outcome import Report, Result, Status
from lms_conformance.spec import TITLES

_MARK = {
    Status.PASSED: "✓", Status.FAILED: "✗", Status.HUNG: "⧖", Status.CRASHED: "☠", Status.ERROR: "!",
    Status.NOT_RUN: "∅", Status.WAIVED: "≈", Status.STALE_WAIVER: "✗", Status.WARNED: "△", Status.NOT_APPLICABLE: "–",
    Status.VACUOUS: "○", Status.WARNED_VACUOUS: "○",
}  # fmt: skip


def kind(r: Result) -> str:
    """How a result is coloured: ``green``, ``red``, ``grey`` where it does not apply, else ``amber``."""
    if r.red:
        return "red"
    return {Status.PASSED: "green", Status.NOT_APPLICABLE: "grey"}.get(r.status, "amber")


def to_html(report: Report) -> str:
    """The whole page."""
    style = resources.files("lms_conformance.reports").joinpath("report.css").read_text(encoding="utf-8")
    title = f"{html.escape(report.subject)} · conformance"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>'
        f"<body><main>{''.join(_page(report))}</main></body></html>\n"
    )


def _page(report: Report) -> Iterator[str]:
    verdict = "conforms" if report.ok else "does not conform"
    if report.ok and not report.complete:
        verdict = "passes the properties that were chosen"
    yield f'<header class="{"green" if report.ok else "red"}"><p class="kind">lms_tiers conformance</p>'
    yield f"<h1><code>{html.escape(report.subject)}</code> {verdict}</h1>"
    yield f"<p class=badge>{html.escape(report.badge)}</p></header>"
    yield _overview(report)
    failures = report.failures()
    if failures:
        yield f"<h2>What failed <small>{len(failures)}</small></h2>"
        for r in failures:
            yield _failure(r)
    waived = [r for r in report.results if r.status in (Status.WAIVED, Status.WARNED, Status.WARNED_VACUOUS)]
    if waived:
        yield "<h2>Waived, vacuous, or newer than the spec</h2><ul>"
        for r in waived:
            yield f"<li><b>{r.id}</b> {html.escape(r.sentence)} <i>{html.escape(r.reason)}</i></li>"
        yield "</ul>"
    if report.cut:
        yield "<h2>Cut down in examples</h2><ul>"
        for r in report.cut:
            yield f"<li><b>{r.id}</b> {r.effort} examples: {html.escape(r.sentence)}</li>"
        yield "</ul>"
    yield "<h2>Every property</h2>"
    for family, rows in _families(report):
        yield _family(family, TITLES.get(family, ""), rows)
    yield _facts(report)


def _families(report: Report) -> Iterator[tuple[str, list[Result]]]:
    """Those of the kit in its order, then those that this kit does not know."""
    for family in dict.fromkeys([*TITLES, *(r.family for r in report.results)]):
        rows = [r for r in report.results if r.family == family]
        if rows:
            yield family, rows


def _overview(report: Report) -> str:
    out = ['<nav class="overview" aria-label="families">']
    for family, rows in _families(report):
        what = TITLES.get(family, "")
        dots = "".join(
            f'<a href="#{r.id}" class="dot {kind(r)}" title="{r.id} {html.escape(r.status.value)}"></a>' for r in rows
        )
        out.append(f'<div><a href="#{family}"><b>{family}</b> {html.escape(what)}</a><span>{dots}</span></div>')
    out.append("</nav>")
    return "".join(out)


def _failure(r: Result) -> str:
    out = [f'<article class="failure" id="failed-{r.id}"><h3>{r.id} <small>{html.escape(r.status.value)}</small></h3>']
    out.append(f"<p class=sentence>{html.escape(r.sentence)}</p>")
    if r.reason:
        out.append(f"<p>{html.escape(r.reason)}</p>")
    if r.expected:
        out.append(
            f"<dl><dt>expected</dt><dd>{html.escape(r.expected)}</dd><dt>got</dt><dd>{html.escape(r.got)}</dd></dl>"
        )
    elif r.got:
        out.append(f"<dl><dt>got</dt><dd>{html.escape(r.got)}</dd></dl>")
    if r.program:
        out.append(f"<p>A program that shows it; it runs as it stands:</p><pre>{html.escape(r.program)}</pre>")
    if r.trace:
        out.append(f"<details><summary>stacks</summary><pre>{html.escape(r.trace)}</pre></details>")
    return "".join([*out, "</article>"])


def _family(family: str, what: str, rows: list[Result]) -> str:
    out = [f'<section id="{family}"><h3>{family} <small>{html.escape(what)}</small></h3><table>']
    for r in rows:
        reached = ", ".join(f"{state} ({count} ×)" for state, count in r.marks.items())
        note = html.escape("; ".join(filter(None, (r.reason, reached and f"reached: {reached}"))))
        link = f' <a href="#failed-{r.id}">see above</a>' if r.red else ""
        effort = f"{r.effort} × · {r.calls} calls · {r.seconds:.2f} s" if r.examples else ""
        out.append(
            f'<tr id="{r.id}" class="{kind(r)}"><td class=mark>{_MARK[r.status]}</td><td class=id>{r.id}</td>'
            f"<td>{html.escape(r.sentence)}<span class=note>{note}{link}</span></td><td class=effort>{effort}</td></tr>"
        )
    return "".join([*out, "</table></section>"])


def _facts(report: Report) -> str:
    facts = {
        "backend": report.backend, "plugin": report.plugin, "spec": report.spec, "kit": report.kit,
        "profile": report.profile, "seed": str(report.seed), "started": report.started,
        "took": f"{report.seconds:.1f} s", **report.environment,
    }  # fmt: skip
    caps = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(str(v))}</dd>" for k, v in report.capabilities.items())
    rows = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items())
    declared = f"<div><h3>Declared capabilities</h3><dl>{caps}</dl></div>"
    return f'<h2>The run</h2><div class="facts"><dl>{rows}</dl>{declared}</div>'
