"""A point in time that a call may not pass."""

from __future__ import annotations

import time
from typing import Final

from lms_tiers.errors import DeadlineExceededError

#: Seconds between two looks while nothing is reported.
_TICK: Final = 0.05


class Deadline:
    """A point in time that may be never."""

    def __init__(self, operation: str, seconds: float | None) -> None:
        self._operation = operation
        self._seconds = seconds
        self._at = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds left, None for no limit.

        Raises
        ------
        DeadlineExceededError
            None are left.
        """
        if self._at is None:
            return None
        left = self._at - time.monotonic()
        if left <= 0:
            raise DeadlineExceededError(self._operation, self._seconds or 0.0)
        return left

    def tick(self) -> float:
        """How long to wait before looking again."""
        left = self.left()
        return _TICK if left is None else min(_TICK, left)
