"""One call stopped before some opcode of the backend's own frames, while another one runs to its end.

What is checked first and done later shows by this where drawn turns (`lms_conformance.preempt`) seldom meet: a call
that saw an open backend and writes into a closed one. Like them it reaches Python frames only.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from lms_conformance.preempt import LOOK, LOOKS, Watch, hasty


class Stopped:
    """A call that is stopped once.

    Parameters
    ----------
    files : tuple of str
        Path prefixes of the code whose opcodes count.
    at : int
        Before which of them `other` runs; -1: before none.
    other : callable
        Runs in a thread of its own, until it has returned or waits for something that the stopped call holds.

    Attributes
    ----------
    opcodes : int
        How many there were.
    entries : list of int
        Before which of them a frame was entered.
    error : BaseException or None
        What `other` raised.
    """

    def __init__(self, files: tuple[str, ...], at: int, other: Callable[[], Any]) -> None:
        self.opcodes = 0
        self.entries: list[int] = []
        self.error: BaseException | None = None
        self._files = files
        self._at = at
        self._other = other
        self._thread = threading.Thread(target=self._work, daemon=True, name="conformance-beside")
        self._started = False

    def _work(self) -> None:
        try:
            self._other()
        except BaseException as error:
            self.error = error

    def run(self, call: Callable[[], Any]) -> Any:
        """What `call` answers; `other` has been started, at the latest when it returned or raised."""

        def inside(frame: FrameType, event: str, arg: Any) -> Any:
            if event == "opcode":
                if self.opcodes == self._at:
                    self._beside()
                self.opcodes += 1
            return inside

        def enter(frame: FrameType, event: str, arg: Any) -> Any:
            if not frame.f_code.co_filename.startswith(self._files):
                return None
            self.entries.append(self.opcodes)
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
            return inside

        before = sys.gettrace()
        sys.settrace(enter)
        try:
            return call()
        finally:
            sys.settrace(before)
            if not self._started and self._at >= 0:
                self._beside()

    def ended(self, seconds: float) -> bool:
        """Whether `other` returned, or raised."""
        from lms_conformance.gauges import ends

        return not self._started or ends(self._thread, seconds)

    def _beside(self) -> None:
        self._started = True
        self._thread.start()
        watch = Watch()
        with hasty():
            for _ in range(LOOKS):
                self._thread.join(LOOK)
                if not self._thread.is_alive() or watch.rests(self._thread.native_id or 0):
                    return
