"""Renderings of a `Report`: JSON, JUnit, a badge, and a page that a person reads."""

from __future__ import annotations

from lms_conformance.reports.html import kind, to_html
from lms_conformance.reports.json import badge_json, from_json, to_json
from lms_conformance.reports.junit import to_junit

__all__ = ["badge_json", "from_json", "kind", "to_html", "to_json", "to_junit"]
