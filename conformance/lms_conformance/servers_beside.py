"""The lm:// servers of a run, in a process of their own that can be killed, stalled and healed (`servers`)."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from lms_conformance.companion import Companion


class ServersBeside:
    """Servers in a process of their own; what happens to it happens to all of them.

    Parameters
    ----------
    beside : Companion
        That process.
    """

    def __init__(self, beside: Companion) -> None:
        self._beside = beside
        self._lock = threading.Lock()
        self._places: dict[str, dict[str, str]] = {}

    @property
    def pid(self) -> int:
        """Of their process."""
        return self._beside.pid

    def _ask(self, question: dict[str, str]) -> str:
        self._beside.line.say(question)
        answer = self._beside.line.hear()
        if answer is None:
            raise RuntimeError("the process of the lm:// servers died")
        return str(answer["address"])

    def start(self, place: Path, device: str) -> str:
        """See `servers.Servers`."""
        question = {"start": str(place), "device": device}
        with self._lock:
            known = self._places.get(str(place), {}).get("address", "")
            if os.path.exists(known.removeprefix("unix:")):
                return known  # it may be stalled, and answer nothing now
            address = self._ask(question)
            self._places[str(place)] = {**question, "address": address}
        return address

    def stop(self, place: Path) -> None:
        """See `servers.Servers`."""
        with self._lock:
            if self._places.pop(str(place), None) is not None and self._beside.runs:
                self._ask({"stop": str(place)})

    def stall(self) -> None:
        """They answer nothing until `heal`."""
        self._beside.stall()

    def kill(self) -> None:
        """SIGKILL to the process; `heal` starts another, with the same servers at the same addresses."""
        self._beside.kill()

    def heal(self) -> None:
        """Undo `stall` or `kill`."""
        if self._beside.runs:
            self._beside.signal(signal.SIGCONT)
            return
        with self._lock:
            self._beside.relaunch()
            for question in self._places.values():
                self._ask(question)
