"""An environment for an older release: its own packages before those of this one."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

from lms_conformance.upgrade.predecessor import Predecessor
from lms_tiers.errors import ConfigError


def _installer(python: Path) -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    uv = shutil.which("uv")
    if uv is not None:
        return [uv, "pip", "install", "--quiet", "--python", str(python)]
    raise ConfigError("neither pip nor uv is there to install an older release with.")


@contextlib.contextmanager
def release(requirement: str) -> Iterator[Predecessor]:
    """An older release, installed beside this one; it is gone after the block.

    Parameters
    ----------
    requirement : str
        What pip takes: ``"mine==0.3"``, a wheel, a directory.

    Raises
    ------
    ConfigError
        It cannot be installed.
    """
    with tempfile.TemporaryDirectory(prefix="lms-conformance-release-") as folder:
        venv.create(folder, with_pip=False, symlinks=True)
        python = Path(folder) / "bin" / "python"
        asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        told = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
        # What the release needs and does not pin is found where this process finds it, after its own.
        Path(told, "zz-beside.pth").write_text("\n".join(p for p in sys.path if p and Path(p).is_dir()))
        done = subprocess.run([*_installer(python), requirement], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ConfigError(f"{requirement} cannot be installed: {done.stderr.strip()[-500:]}")
        yield Predecessor(str(python), requirement)
