"""Modules of an engine that is not installed, made of a double's attributes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def standing_in(engine: str, modules: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """The modules are there within the block, and nothing that was made of them stays: of `engine` or of its door."""
    before = set(sys.modules)
    try:
        for name, attributes in modules.items():
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                module = sys.modules.setdefault(".".join(parts[:end]), ModuleType(".".join(parts[:end])))
                module.__path__ = []
            sys.modules[name].__dict__.update(attributes)
        yield
    finally:
        for name in set(sys.modules) - before:
            if name.split(".")[0] == engine or name.startswith(f"lms_tiers.doors.{engine}"):
                del sys.modules[name]
