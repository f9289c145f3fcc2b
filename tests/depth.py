"""How deep a run goes: what is marked `deep` is left out by `make test` and run by `make test-all`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pytest
from lms_conformance.spec import FAMILIES

T = TypeVar("T")

#: Times as many drawn programs in a deep run, for a night.
DEPTH = int(os.environ.get("DEPTH", "1"))

#: What takes too long for every check: it runs with ``DEPTH=2`` and more.
nightly = pytest.mark.skipif(DEPTH == 1, reason="for a night: DEPTH=2 make test-all")


def some(values: Iterable[T], quick: Callable[[T], bool]) -> list[Any]:
    """Parameters of which those that are `quick` are for every run, the others for a deep one."""
    return [value if quick(value) else pytest.param(value, marks=pytest.mark.deep) for value in values]


def drawn(quick: int, count: int) -> list[Any]:
    """Parameters that are ranges of seeds: the first `quick` of them for every run, those up to `count` for a deep one.

    Use as ``@pytest.mark.parametrize("seeds", drawn(20, 2000))``.
    """
    return [
        pytest.param(range(quick), id="first"),
        pytest.param(range(quick, count * DEPTH), id="rest", marks=pytest.mark.deep),
    ]


def asked(quick: Iterable[str], deep: Iterable[str] = FAMILIES) -> list[Any]:
    """Parameters that are families or properties of the kit: those of every run, and what a deep one asks besides."""
    quick = list(quick)
    return [
        pytest.param(quick, id="some"),
        pytest.param([name for name in deep if name not in quick], id="rest", marks=pytest.mark.deep),
    ]
