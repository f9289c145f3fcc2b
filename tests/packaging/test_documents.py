"""What README, tutorial and guides tell readers to type is typed here, in order, in a fresh environment."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.depth import DEPTH, nightly
from tests.docs.blocks import SHOWN, Block, blocks
from tests.packaging.environment import ONCE, ROOT, SOME, Environment
from tests.plugins.redis.engine import needs_server

pytestmark = [pytest.mark.deep, pytest.mark.leaks_allowed]

#: Documents whose every command and program is run.
PAGES = [
    "README.md",
    "docs/tutorial.md",
    "docs/tutorial-remote.md",
    "docs/authors.md",
    "docs/operations.md",
    "docs/devices.md",
    "docs/migration.md",
]

#: Those of them that install something, which gets an environment of its own; the others share one.
INSTALLS = ["docs/tutorial.md", "docs/tutorial-remote.md"]

#: Those of them that start Debian's redis-server.
SERVED = ["docs/tutorial-remote.md"]


def play(block: Block, page: str, where: Path, environ: dict[str, str]) -> None:
    if block.title:
        target = where / block.title
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(block.body)
        return
    if block.language == "console":
        body = block.body if DEPTH > 1 else block.body.replace("--profile quick", f"--profile quick {SOME}")
        command = ["bash", "-euo", "pipefail", "-c", body]
    elif block.language == "python":
        command = ["python", "-W", "error", "-c", block.body]
    else:
        raise AssertionError(f"{page}:{block.line}: a block of {block.language!r} is neither run nor known to be shown")
    done = subprocess.run(command, cwd=where, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{page}:{block.line}\n{block.body}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[needs_server, nightly]) if page in SERVED else page for page in PAGES]
)
def test_every_block_of_the_page_works(page: str, request: pytest.FixtureRequest, wheel: Path, tmp_path: Path) -> None:
    environment: Environment = request.getfixturevalue("with_pip" if page in INSTALLS else "installed")
    environ = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST", "VIRTUAL_ENV", "LMS_TIERS"))
    }
    environ |= {
        "PATH": f"{environment.path / 'bin'}:{os.environ['PATH']}",
        # The wheel under test stands in for the package index.
        "PIP_FIND_LINKS": str(wheel.parent),
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
        "PIP_QUIET": "1",
    }
    environ |= dict(assignment.split("=", 1) for assignment in ONCE)
    ran = 0
    for block in blocks(ROOT / page):
        if block.skipped or (block.language in SHOWN and not block.title):
            continue
        assert page in INSTALLS or "pip install" not in block.body, f"{page}:{block.line}: name the page in INSTALLS"
        play(block, page, tmp_path, environ)
        ran += 1
    assert ran or page in ("docs/migration.md",)


def test_the_tutorial_names_every_dependency_that_the_template_lacks() -> None:
    example = tomllib.loads((ROOT / "examples" / "lms-tiers-files" / "pyproject.toml").read_text())
    tutorial = (ROOT / "docs" / "tutorial.md").read_text()
    for dependency in example["project"]["dependencies"]:
        assert dependency.startswith("lms-tiers>") or f"`{dependency}`" in tutorial


def test_what_is_not_run_says_why() -> None:
    for page in PAGES:
        for block in blocks(ROOT / page):
            assert block.skipped is None or len(block.skipped) > 10, f"{page}:{block.line}"


def test_the_tutorial_ends_with_the_example() -> None:
    written = {b.title: b.body for b in blocks(ROOT / "docs" / "tutorial.md") if b.title}
    assert len(written) == 2
    for path, body in written.items():
        assert path is not None
        assert body == (ROOT / "examples" / path).read_text(), f"{path} differs from the example"
