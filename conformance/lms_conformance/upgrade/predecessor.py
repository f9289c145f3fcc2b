"""The release before, in a process of its own; it can be killed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lms_conformance.chunks import KINDS, Chunk
from lms_conformance.violation import violate

_SCRIPT: Final = Path(__file__).with_name("old_release.py")


@dataclass(frozen=True, slots=True)
class Predecessor:
    """Where the release before is.

    Attributes
    ----------
    python : str
        Interpreter of its environment.
    name : str
        How reports call it.
    path : tuple of str
        Where it finds modules besides.
    opener : str or None
        ``"module:callable"`` instead of how the harness opens the backend.
    """

    python: str
    name: str
    path: tuple[str, ...] = ()
    opener: str | None = None


class OldRelease:
    """One process of it.

    Parameters
    ----------
    predecessor : Predecessor
    """

    def __init__(self, predecessor: Predecessor) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        if predecessor.path:
            environment["PYTHONPATH"] = os.pathsep.join(predecessor.path)
        self._process = subprocess.Popen(
            [predecessor.python, "-W", "ignore", str(_SCRIPT)], env=environment, cwd="/",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, **order: Any) -> dict[str, Any]:
        """What it answers to an order of `old_release`; ``raised`` where it raised."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.poll() is not None:
            violate(f"the release before to {order['do']}", f"its end, with status {self._process.returncode}")
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            violate(f"the release before to {order['do']}", f"its end, with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def do(self, **order: Any) -> dict[str, Any]:
        """The same, and a violation where it raised."""
        answer = self.ask(**order)
        if "raised" in answer:
            violate(f"the release before to {order['do']}", f"{answer['raised']}: {answer['message']}")
        return answer

    def put(self, k: str, chunk: Chunk) -> None:
        """`put`."""
        dtype, fmt, shape = chunk.described
        data = base64.b64encode(chunk.bytes()).decode()
        self.do(do="put", key=k, data=data, meta=[dtype, fmt.name, list(shape)])

    def expect(self, model: dict[str, Chunk], absent: tuple[str, ...] = ()) -> None:
        """It holds exactly these."""
        keys = self.do(do="keys")["keys"]
        if keys != sorted(model):
            violate(f"the release before to list {sorted(model)}", keys)
        for k, chunk in model.items():
            answer = self.do(do="get", key=k)
            dtype, fmt, shape = chunk.described
            if not answer:
                violate(f"the release before to answer {chunk!r} under {k!r}", "None")
            if base64.b64decode(answer["data"]) != chunk.bytes() or answer["meta"] != [dtype, fmt.name, list(shape)]:
                violate(f"the release before to answer {chunk!r} under {k!r}", f"another chunk, of {answer['meta']}")
        for k in absent:
            if self.do(do="get", key=k):
                violate(f"the release before to answer nothing under {k!r}", "a chunk")

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self._process.kill()
        self._process.communicate()

    def end(self) -> None:
        """Let it end by itself."""
        self._process.communicate()


@contextlib.contextmanager
def old_release(predecessor: Predecessor) -> Iterator[OldRelease]:
    """A process of the release before, which is gone after the block."""
    process = OldRelease(predecessor)
    try:
        yield process
    finally:
        process.kill()


def here(opener: str) -> Predecessor:
    """A release before that is in this environment, under another name."""
    return Predecessor(sys.executable, opener, tuple(p for p in sys.path if p), opener)


#: A chunk of every kind of metadata, of sizes at which formats change their mind.
CHUNKS: Final = {f"key-{i}@é": Chunk(11 + i, (0, 7, 5000, 70_000)[i % 4] + i, i) for i in range(len(KINDS))}
