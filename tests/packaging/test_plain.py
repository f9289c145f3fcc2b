"""Without any extra all that needs none works, and the rest says what to install: the job `plain` of CI, pretended here."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.packaging.environment import ROOT

pytestmark = [pytest.mark.deep, pytest.mark.leaks_allowed]


def test_all_that_needs_no_extra_works_without_any() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.plain", "--pretend"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
