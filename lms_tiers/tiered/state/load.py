"""One read of a chunk of a lower tier, and those who share it."""

from __future__ import annotations

import threading
from typing import Any

from lms_tiers.tiered.state.index import Entry


class Load:
    """One read of a lower tier that other readers of the same chunk share.

    Most have none: what they would wait on is made by the first that comes.
    """

    __slots__ = ("_done", "_waited", "entry", "result", "thread")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.thread = threading.get_ident()
        self.result: Any = None
        self._done = False
        self._waited: threading.Event | None = None

    def finish(self) -> None:
        """Let those go on who wait. They make the event before they look whether it is done; here it is the reverse."""
        self._done = True
        if self._waited is not None:
            self._waited.set()

    def wait(self, seconds: float, lock: threading.Lock) -> bool:
        """Whether it was finished within `seconds`. `lock`, not held, is for those who come at once."""
        if self._waited is None:
            with lock:
                if self._waited is None:
                    self._waited = threading.Event()
        return self._done or self._waited.wait(seconds)

    @property
    def done(self) -> bool:
        """Whether it is finished."""
        return self._done
