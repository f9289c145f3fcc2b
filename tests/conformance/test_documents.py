"""The documentation's own examples keep what they say."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lms_conformance import ConformanceError, check_backend
from lms_conformance.pages import with_table

from tests.depth import asked

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def example() -> Callable[..., Any]:
    """The twenty-line backend of the contract."""
    text = (DOCS / "contract.md").read_text(encoding="utf-8")
    block = re.search(r"```python title=\"dict_backend.py\"\n(.*?)```", text, re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {"__name__": "dict_backend"}
    exec(compile(block[1], "dict_backend.py", "exec"), names)
    return names["DictBackend"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("only", asked(["KEY", "PUT-01", "GET", "OVR-01", "CNT", "BAT-01"]))
def test_the_first_backend_of_the_contract_conforms(example: Callable[..., Any], only: list[str]) -> None:
    report = check_backend(example, profile="quick", only=only)
    assert report.complete == (not only)
    assert report.required > (20 if only else 90)


def test_with_put_doing_nothing_it_fails_and_says_so(
    example: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "put", lambda self, client_meta, kv_chunk_bytes: None)
    with pytest.raises(ConformanceError, match="does `put` store anything"):
        check_backend(example, profile="quick", only=["PUT"])


def test_the_contracts_table_is_what_is_registered() -> None:
    page = (DOCS / "contract.md").read_text(encoding="utf-8")
    assert page == with_table(page), f"run `{sys.executable} -m lms_conformance.pages docs/contract.md`"


def test_a_harness_as_documented_works() -> None:
    text = (DOCS / "conformance.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "documented"}
    for body in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        if "class MyHarness" in body:
            exec(compile(body, "harness", "exec"), names)
    report = check_backend(names["MyHarness"](), profile="quick", only=["KEY-01"])
    assert report.subject == "mine"
