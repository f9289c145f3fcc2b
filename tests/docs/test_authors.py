"""The page for authors speaks of every optional method, capability and error that is theirs, and of none that is not."""

from __future__ import annotations

import dataclasses
import re

from lms_tiers import Capabilities, LMSBackendInterface, errors
from tests.docs.named import ROOT, missing

PAGE = (ROOT / "docs" / "authors.md").read_text(encoding="utf-8")

#: What no author of a backend raises: of engines, traces, the wire, plugins, policies and codecs.
OTHERS = {
    "LmsTiersError", "PluginError", "PluginConflictError", "InvalidBufferError", "PolicyError", "TraceError", "ProtocolError",
    "CodecError", "DeviceMemoryError",
}  # fmt: skip


def first_cells(heading: str) -> set[str]:
    """What stands in backticks in the first column below a heading."""
    section = PAGE.partition(f"## {heading}")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_every_optional_method_is_there() -> None:
    optional = {
        name
        for name, member in vars(LMSBackendInterface).items()
        if not name.startswith("_") and name != "capabilities" and not getattr(member, "__isabstractmethod__", False)
    }
    assert first_cells("Every optional method") == optional


def test_every_capability_and_error_is_there() -> None:
    assert first_cells("Capabilities") == {field.name for field in dataclasses.fields(Capabilities)}
    kinds = {n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, errors.LmsTiersError)}
    assert first_cells("Errors") == kinds - OTHERS


def test_what_is_named_is_there() -> None:
    assert missing(PAGE) == []
