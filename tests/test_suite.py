"""`make test` and `make test-all`: what each runs, and the one line that closes it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

GREEN = "def test_passes():\n    pass\n"
RED = "def test_fails():\n    assert 1 == 2\n"
SKIPPED = "import pytest\n\n@pytest.mark.skip(reason='no such machine')\ndef test_skipped():\n    pass\n"
DEEP = "import pytest\n\n@pytest.mark.deep\ndef test_deep():\n    pass\n"


def run(folder: Path, first: str, conformance: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "tests" / "conformance").mkdir(parents=True)
    (folder / "tests" / "test_first.py").write_text(first)
    (folder / "tests" / "conformance" / "test_second.py").write_text(conformance)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -ra --import-mode=importlib\nmarkers = deep\n")
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin"}
    command = [sys.executable, str(ROOT / "scripts" / "suite.py"), "--jobs", "1", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("first", "second", "told"), [
    (GREEN + SKIPPED + DEEP, GREEN, "green: 2 passed, 1 skipped, in 0 min"),
    ("1 / 0", RED + GREEN, "RED: 1 failed, 1 with errors, 1 passed, in 0 min"),
])  # fmt: skip
def test_a_run_has_no_deep_tests_and_one_line_closes_it(tmp_path: Path, first: str, second: str, told: str) -> None:
    done = run(tmp_path, first, second)
    assert done.stdout.splitlines()[-1].startswith(told), done.stdout + done.stderr
    assert done.returncode == told.startswith("RED")
    assert "no such machine" not in done.stdout


@pytest.mark.deep
def test_the_whole_run_has_deep_tests_and_tells_why_it_skips(tmp_path: Path) -> None:
    done = run(tmp_path, GREEN + SKIPPED + DEEP, RED, "--all")
    assert done.stdout.splitlines()[-1].startswith("RED: 1 failed, 2 passed, 1 skipped, in 0 min"), done.stdout
    assert done.returncode == 1
    assert "no such machine" in done.stdout
