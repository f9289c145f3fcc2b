"""The process that `AdapterTrial.killed` kills: makes calls of a drive, then kills itself.

Run as ``python -m lms_conformance.adapters.victim``, with the job on standard input.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from pathlib import Path


def main() -> None:
    """Make the calls; nothing is closed, nothing is flushed."""
    harness, path, how, calls = pickle.load(sys.stdin.buffer)
    adapter = harness.drive(Path(path), **how)
    for call in calls:
        eval(f"adapter.{call}", {"adapter": adapter})  # a line of the program that a failure prints
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
