"""The pages of the board: the matrix, a page a subject with its history, a page a property, every run, badges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from importlib import resources
from pathlib import Path

from lms_conformance.board.badge import colour, to_svg
from lms_conformance.board.runs import Board, Run, Subject
from lms_conformance.outcome import Result, Status
from lms_conformance.reports import badge_json, kind, to_html, to_json
from lms_conformance.spec import TITLES


def write(board: Board, out: Path, title: str = "Conformance") -> int:
    """Write the site, and answer how many pages it has.

    Every address is relative, so that the site can lie anywhere::

        index.html                      subjects × families
        subjects/SLUG.html              its runs, what changed between them, its badge to copy
        runs/SLUG/RUN.html, RUN.json    each report as a page, and as it came; newest.html stays at its address
        properties/KEY-01.html          what it promises, and who keeps it
        badges/SLUG.svg, SLUG.json      of the newest run

    Raises
    ------
    OSError
        A page cannot be written.
    """
    pages = dict(_pages(board, title))
    for path, text in {**pages, **dict(_data(board))}.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_text(text, encoding="utf-8")
    return len(pages)


def _pages(board: Board, title: str) -> Iterator[tuple[str, str]]:
    yield "index.html", _index(board, title)
    for subject in board.subjects:
        yield f"subjects/{subject.slug}.html", _subject(subject, title)
        yield f"runs/{subject.slug}/newest.html", to_html(subject.newest.report)
        for run in subject.runs:
            yield f"runs/{subject.slug}/{run.name}.html", to_html(run.report)
    for id, sentence in board.properties.items():
        yield f"properties/{id}.html", _property(board, id, sentence, title)


def _data(board: Board) -> Iterator[tuple[str, str]]:
    for subject in board.subjects:
        yield f"badges/{subject.slug}.svg", to_svg(subject.newest.report)
        yield f"badges/{subject.slug}.json", badge_json(subject.newest.report)
        for run in subject.runs:
            yield f"runs/{subject.slug}/{run.name}.json", to_json(run.report)


# -- the matrix ------------------------------------------------------------------------------------------------------


def _index(board: Board, title: str) -> str:
    good = sum(s.newest.report.ok for s in board.subjects)
    heads = "".join(f'<th title="{escape(TITLES.get(f, ""))}">{escape(f)}</th>' for f in board.families)
    rows = "".join(_row(subject, board.families) for subject in board.subjects)
    body = [
        f"<p>{good} of {len(board.subjects)} conform in their newest run. A cell says how many properties of a family "
        "passed, of those that apply; – where none does.</p><div class=wide><table class=matrix>",
        f"<thead><tr><th></th>{heads}<th></th><th></th></tr></thead><tbody>{rows}</tbody></table></div>",
        "<h2>Every property</h2>",
        *(_list(board, family) for family in board.families),
    ]
    return _page(title, escape("lms_tiers conformance"), body)


def _row(subject: Subject, families: Iterable[str]) -> str:
    cells = "".join(_cell([r for r in subject.newest.report.results if r.family == f]) for f in families)
    badge = _link(f"runs/{subject.slug}/newest.html", _badge(subject, f"badges/{subject.slug}.svg"))
    name = _link(f"subjects/{subject.slug}.html", f"<code>{escape(subject.name)}</code>")
    return f"<tr><th>{name}</th>{cells}<td>{badge}</td><td class=when>{_day(subject.newest)}</td></tr>"


def _cell(results: list[Result]) -> str:
    apply = [r for r in results if r.status is not Status.NOT_APPLICABLE]
    if not apply:
        return "<td class=grey>–</td>"
    kinds = {kind(r) for r in apply}
    worst = next(k for k in ("red", "amber", "green") if k in kinds)
    told = ", ".join(f"{r.id} {r.status.value}" for r in apply if r.status is not Status.PASSED)
    passed = sum(r.status is Status.PASSED for r in apply)
    return f'<td class={worst} title="{escape(told)}">{passed}/{len(apply)}</td>'


def _list(board: Board, family: str) -> str:
    rows = (
        f"<tr><td class=id>{_link(f'properties/{id}.html', id)}</td><td>{escape(sentence)}</td></tr>"
        for id, sentence in board.properties.items()
        if id.partition("-")[0] == family
    )
    return f"<h3>{escape(family)} <small>{escape(TITLES.get(family, ''))}</small></h3><table>{''.join(rows)}</table>"


# -- a subject, a property -------------------------------------------------------------------------------------------


def _subject(subject: Subject, title: str) -> str:
    earlier = [*subject.runs[1:], None]
    rows = (_history(subject, run, before) for run, before in zip(subject.runs, earlier, strict=True))
    markdown = f"[![lms conformance](badges/{subject.slug}.svg)](runs/{subject.slug}/newest.html)"
    body = [
        f"<p>{_badge(subject, f'../badges/{subject.slug}.svg')}</p>",
        f"<h2>Runs <small>{len(subject.runs)}</small></h2><table>{''.join(rows)}</table>",
        f"<h2>Its badge</h2><p>With the address of this site before both paths:</p><pre>{escape(markdown)}</pre>",
    ]
    newest = subject.newest.report
    return _page(subject.name, _up(title, newest.plugin or newest.backend), body)


def _history(subject: Subject, run: Run, before: Run | None) -> str:
    report = run.report
    facts = f"{report.plugin} · kit {report.kit} · {report.profile} · seed {report.seed}"
    when = _link(f"../runs/{subject.slug}/{run.name}.html", escape(report.started))
    return (
        f'<tr class="{colour(report)}"><td class=mark>{"✓" if report.ok else "✗"}</td><td class=when>{when}</td>'
        f"<td>{escape(report.badge)}<span class=note>{escape(facts)}</span></td><td>{_turned(run, before)}</td></tr>"
    )


def _turned(run: Run, before: Run | None) -> str:
    """What changed since the run before it."""
    if before is None:
        return "<small>first run</small>"
    told = []
    for what, ids in zip(("now red", "red no more"), run.changes(before), strict=True):
        if ids:
            told.append(f"{what}: {', '.join(_link(f'../properties/{id}.html', escape(id)) for id in ids)}")
    return "; ".join(told) or "<small>as before</small>"


def _property(board: Board, id: str, sentence: str, title: str) -> str:
    rows = "".join(_kept(s, s.newest.results[id]) for s in board.subjects if id in s.newest.results)
    family = id.partition("-")[0]
    body = [f"<p class=sentence>{escape(sentence)}</p>", f"<table>{rows}</table>"]
    return _page(id, _up(title, f"{family}: {TITLES.get(family, '')}"), body)


def _kept(subject: Subject, result: Result) -> str:
    name = _link(f"../subjects/{subject.slug}.html", f"<code>{escape(subject.name)}</code>")
    status = _link(f"../runs/{subject.slug}/newest.html#{result.id}", escape(result.status.value))
    why = f"expected {result.expected}, got {result.got}" if result.expected else result.reason
    return (
        f'<tr class="{kind(result)}"><td>{name}</td><td>{status}<span class=note>{escape(why)}</span></td>'
        f"<td class=when>since {_day(subject.since(result.id))}</td></tr>"
    )


# -- what all pages have ---------------------------------------------------------------------------------------------


def _page(heading: str, kicker: str, body: Iterable[str]) -> str:
    """A page; `kicker` is markup that stands small above the heading."""
    kit = resources.files("lms_conformance")
    style = "".join(
        kit.joinpath(*path).read_text(encoding="utf-8") for path in (("reports", "report.css"), ("board", "board.css"))
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(heading)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head><body><main>'
        f"<header class=plain><p class=kind>{kicker}</p><h1>{escape(heading)}</h1></header>"
        f"{''.join(body)}</main></body></html>\n"
    )


def _up(title: str, where: str) -> str:
    return f"{_link('../index.html', escape(title))} · {escape(where)}"


def _link(address: str, markup: str) -> str:
    return f'<a href="{escape(address)}">{markup}</a>'


def _badge(subject: Subject, address: str) -> str:
    return f'<img alt="{escape(subject.newest.report.badge)}" src="{address}">'


def _day(run: Run) -> str:
    return escape(run.report.started[:10])
