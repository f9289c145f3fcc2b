"""`make doors`: what a check saw is judged by its text, and the matrix says what did not pass."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from scripts.doors import lmcache
from scripts.doors.__main__ import ENGINES, main, pytest_of, release
from scripts.doors.engine import ROOT, Check, Engine, Failed, Made, newest_releases
from scripts.doors.matrix import Result, table, written
from tests.docs.named import missing, names_of, properties_of


def made(scratch: Path) -> Made:
    return Made("1.0", Path(sys.executable), scratch / "scratch", scratch / "logs" / "check.log", dict(os.environ))


def test_the_newest_releases_are_those_that_are_final() -> None:
    printed = (
        "it (0.5.6)\nAvailable versions: 0.6.0rc1, 0.5.6, 0.5.5.dev3, 0.5.5, 0.5.4.post1, 0.5.4\n  INSTALLED: 0.5.4\n"
    )
    assert newest_releases(printed, 3) == ["0.5.6", "0.5.5", "0.5.4.post1"]
    with pytest.raises(Failed, match="no release"):
        newest_releases("ERROR: nothing\n", 3)


def test_a_process_that_ends_badly_or_never_fails_the_check_with_what_it_said(tmp_path: Path) -> None:
    there = made(tmp_path).of_check("`it` --runs, 2 MiB")
    assert there.run("-c", "print('said', end='')") == "said"
    with pytest.raises(Failed, match="exit 3: the reason"):
        there.run("-c", "import sys; print('the reason'); sys.exit(3)")
    with pytest.raises(Failed, match="not done within 1 s: it began"):
        there.run("-c", "import signal; print('it began', flush=True); signal.pause()", seconds=1)
    assert there.log.name == "it-runs-2-mib.log"
    log = there.log.read_text()
    assert [log.count(said) for said in ("\nsaid", "\nthe reason", "\nit began", f"$ {sys.executable} -c")] == [
        1,
        1,
        1,
        3,
    ]
    assert there.of_check("another").log.read_text() == ""


def test_a_failing_check_says_where_all_that_it_printed_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(there: Made) -> str:
        return there.run("-c", "print('the cause\\n' + 'noise\\n' * 5000); raise SystemExit(1)")

    engine = Engine(name="e", package="e", newest="1", needs=(), sources=False, tests="", checks=(Check("a", fails),))
    monkeypatch.setattr("scripts.doors.__main__.environment", lambda *given: made(tmp_path))
    monkeypatch.setattr("scripts.doors.__main__.pytest_of", lambda *given: "1 passed")
    assert not release(engine, "1", tmp_path, quick=True)["a"].passed
    printed = capsys.readouterr().out
    assert "the cause" not in printed
    (told,) = re.findall("all that it printed: (.*)", printed)
    assert "the cause" in Path(told).read_text()


WARNS = "import warnings\ndef test_one(): warnings.warn_explicit('old', DeprecationWarning, 'file', 1, '{}')\n"


@pytest.mark.leaks_allowed
@pytest.mark.parametrize(
    ("body", "seen"),
    [
        (WARNS.format("engine") + "def test_two(): pass\n", "2 passed"),
        ("import pytest\ndef test_one(): pass\ndef test_two(): pytest.skip('absent')\n", Failed),
        pytest.param("def test_one(): assert False\n", Failed, marks=pytest.mark.deep),
        pytest.param("", Failed, marks=pytest.mark.deep),
        pytest.param(WARNS.format("lms_tiers.x"), Failed, marks=pytest.mark.deep),
    ],
    ids=["green", "skipped", "red", "empty", "project warns"],
)
def test_a_skip_where_the_engine_is_there_is_a_failure(body: str, seen: object, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(body)
    engine = Engine(name="e", package="e", newest="1", needs=(), sources=False, tests=str(tmp_path))
    if seen is Failed:
        with pytest.raises(Failed):
            pytest_of(engine, made(tmp_path).of_check("tests"))
    else:
        assert pytest_of(engine, made(tmp_path).of_check("tests")) == seen


def test_the_table_shows_what_failed_and_what_did_not_run() -> None:
    results = {
        "2.0": {"a": Result(True, "16/16"), "b": Result(False, "exit 1: x | y\nmore")},
        "1.0": {"a": Result(True, "ok")},
    }
    shown = table("engine", results)
    assert shown.splitlines() == [
        "| engine | 2.0 | 1.0 |",
        "|---|---|---|",
        "| a | 16/16 | ok |",
        "| b | **fails**: exit 1: x / y | not run |",
    ]


def test_a_table_takes_the_place_of_its_engines_and_of_no_other() -> None:
    page = "top\n<!-- matrix a -->\nold\n<!-- end of matrix a -->\n<!-- matrix b -->\nkept\n<!-- end of matrix b -->\n"
    new = written(page, "a", "| new |\n")
    assert "old" not in new
    assert "<!-- matrix a -->\n| new |\n<!-- end of matrix a -->\n" in new
    assert "kept" in new
    with pytest.raises(ValueError, match="no <!-- matrix c -->"):
        written(page, "c", "")


def test_releases_are_of_one_engine(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--versions", "1.0"])
    assert "one --engine" in capsys.readouterr().err


def test_an_engine_that_is_not_to_be_had_is_no_failure_of_its_door(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(*arguments: object) -> Made:
        raise Failed("no such release")

    monkeypatch.setattr("scripts.doors.__main__.environment", absent)
    asked = ["--quick", "--engine", "sglang", "--folder", str(tmp_path)]
    assert main(asked) == 3
    assert "no such release" in capsys.readouterr().out
    monkeypatch.setattr("scripts.doors.__main__.release", lambda *given: {"a tool": Result(False, "it failed")})
    assert main(asked) == 1


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_an_engine_has_its_tests_and_stubs_in_this_project(engine: Engine) -> None:
    assert list((ROOT / engine.tests).glob("test_*.py"))
    assert not engine.stubs or (ROOT / engine.stubs / "sitecustomize.py").is_file()


CHECKED = """Phase 1: Lookup non-existing keys...
  Validation: 4/4 correctly absent
Phase 2: Store operations (batch of 4)...
  Batch store OK (93.39ms)
  Validation: 4/4 found
  Validation (loaded): 4/4
  Validation (content): 4/4
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("4/4 found", "3/4 found"),
        ("(content): 4/4", "(content): 3/4"),
        ("  Validation (loaded): 4/4\n", ""),
        ("store OK", "store FAIL"),
        ("Phase 1", "  Test Failed - Error: x\nPhase 1"),
    ],
)
def test_a_tool_that_ends_with_0_is_judged_by_what_it_printed(old: str, new: str) -> None:
    assert "4/4" in lmcache.judged_check(CHECKED, 4)
    assert old in CHECKED
    with pytest.raises(Failed):
        lmcache.judged_check(CHECKED.replace(old, new), 4)
    with pytest.raises(Failed):
        lmcache.judged_check(CHECKED, 5)


BENCHED = """  [Store] Round 1: 322.25 ms, success_keys=32/32
  [Store] Round 2: 322.25 ms, success_keys=32/32
  [Load] Round 1: 74.58 ms, loaded=32/32
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("loaded=32/32", "loaded=31/32"),
        ("  [Store] Round 2: 322.25 ms, success_keys=32/32\n", ""),
        ("[Load] Round 1: 74.58 ms, loaded", "[Load] Round 1: TIMEOUT (0/1 tasks completed, loaded"),
        ("loaded=32/32\n", "loaded=32/32\n  [Verify] Key 3: MISMATCH"),
    ],
)
def test_a_benchmark_counts_where_every_round_moved_every_key(old: str, new: str) -> None:
    wanted = {"Store": 2, "Load": 1}
    assert lmcache.judged_bench(BENCHED, wanted, 32) == "store 2 × 32, load 1 × 32"
    assert old in BENCHED
    with pytest.raises(Failed):
        lmcache.judged_bench(BENCHED.replace(old, new), wanted, 32)


def test_a_remote_backend_passes_where_each_of_its_four_rates_is_whole() -> None:
    rows = ["EXISTS (non-exist)", "PUT", "EXISTS (exist)", "GET"]
    printed = "".join(f"| {row}  |  1.76 |  {'20/20'} |  100.0% |\n" for row in rows)
    assert lmcache.judged_remote(printed, 20) == "20/20 absent, put, found, got"
    for wrong in (printed.replace("20/20", "19/20", 1), printed.replace("| GET", "| SET"), printed + "Test Failed"):
        with pytest.raises(Failed):
            lmcache.judged_remote(wrong, 20)


def test_every_promise_of_a_door_names_what_proves_it() -> None:
    page = (ROOT / "docs" / "doors.md").read_text(encoding="utf-8")
    promises = page.partition("## What each door is held to")[2].partition("\n## ")[0]
    assert missing(promises) == []
    rows = [line.split("|")[2:-1] for line in promises.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 8
    for row in rows:
        for engine, letter, cell in zip(("lmcache", "vllm", "sglang"), "LVH", row, strict=True):
            tests = [file for file, mark, _ in names_of(cell) if mark == "::"]
            assert tests or properties_of(cell)
            assert all(file.startswith(f"doors/{engine}/") for file in tests)
            assert all(name.startswith(f"DOR-{letter}") for name in properties_of(cell))


def test_everything_that_a_door_offers_names_what_proves_it() -> None:
    page = (ROOT / "docs" / "doors.md").read_text(encoding="utf-8")
    offers = page.partition("## What each door offers")[2].partition("\n## ")[0]
    assert missing(offers) == []
    rows = [line.split("|")[1:-1] for line in offers.splitlines() if line.startswith("| ")][1:]
    assert {offer.strip().partition(":")[0] for offer, _ in rows} >= {"all", "LMCache", "vLLM", "SGLang"}
    for offer, proof in rows:
        assert properties_of(proof) or any(mark == "::" for _, mark, _ in names_of(proof)), offer
