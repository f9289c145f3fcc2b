"""A static page from many reports: who conforms, since when, and property by property."""

from __future__ import annotations

from lms_conformance.board.runs import Board, Run, Subject, collect
from lms_conformance.board.site import write

__all__ = ["Board", "Run", "Subject", "collect", "write"]
