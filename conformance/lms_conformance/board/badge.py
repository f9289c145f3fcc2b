"""A badge as SVG that needs nothing from elsewhere. Widths are those of Verdana at 11 px, near enough."""

from __future__ import annotations

import html
from typing import Final

from lms_conformance.outcome import Report

_COLOURS: Final = {"green": "#1f7a4d", "amber": "#a15c00", "red": "#b3261e"}
#: Of an average letter, px.
_LETTER: Final = 6.7


def colour(report: Report) -> str:
    """``green``, ``amber`` where only a part was run, or ``red``."""
    return "red" if not report.ok else "green" if report.complete else "amber"


def to_svg(report: Report, label: str = "lms conformance") -> str:
    """``label | spec 1.1 · 84/84 · 0 waived``."""
    left, right = (round(len(text) * _LETTER) + 12 for text in (label, report.badge))
    shown = [(left / 2, html.escape(label)), (left + right / 2, html.escape(report.badge))]
    texts = "".join(f'<text x="{x:.1f}" y="14">{text}</text>' for x, text in shown)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
        f'aria-label="{html.escape(label)}: {html.escape(report.badge)}">'
        f'<rect width="{left}" height="20" fill="#40454d"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{_COLOURS[colour(report)]}"/>'
        '<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">'
        f"{texts}</g></svg>\n"
    )
