"""Compiles the recorder, where there is a C compiler."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def compiler() -> str | None:
    """The C compiler of this machine; None where there is none, or the recorder does not know the system."""
    if not sys.platform.startswith("linux") or sys.maxsize < 1 << 32:
        return None
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def recorder(directory: Path) -> Path | None:
    """The recorder, compiled in `directory`; None where it cannot be."""
    found, made = compiler(), directory / "recorder.so"
    if found is None:
        return None
    source = Path(__file__).with_name("recorder.c")
    done = subprocess.run(
        [found, "-O1", "-shared", "-fPIC", "-o", str(made), str(source), "-lpthread"], capture_output=True, check=False
    )
    return made if done.returncode == 0 else None
