"""Examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import lms_tiers

MODULES = [m.name for m in pkgutil.walk_packages(lms_tiers.__path__, "lms_tiers.") if not m.name.endswith("__main__")]


#: Their doors import them; `make doors` has them.
ENGINES = {"lmcache", "vllm", "sglang"}


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_hold(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        engine = (error.name or "").partition(".")[0]
        if engine not in ENGINES or not name.startswith("lms_tiers.doors."):
            raise
        pytest.skip(f"{engine} is not installed: make doors")
    assert doctest.testmod(module).failed == 0
