"""Calls of the engine's threads: none raises into them, and closing waits for those that are inside."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from lms_tiers.errors import DeadlineExceededError

_log = logging.getLogger(__name__)

R = TypeVar("R")


class Gate:
    """Who is inside; nobody enters once it is shut."""

    def __init__(self) -> None:
        self._change: Final = threading.Condition()
        self._inside = 0
        self._shut = False

    def enter(self) -> bool:
        """Whether the caller is inside now."""
        with self._change:
            self._inside += not self._shut
            return not self._shut

    def leave(self) -> None:
        """The caller goes."""
        with self._change:
            self._inside -= 1
            self._change.notify_all()

    def shut(self, seconds: float) -> None:
        """Let nobody in any more, and return when nobody is inside.

        Raises
        ------
        DeadlineExceededError
            Somebody still is after `seconds`; shutting it again waits again.
        """
        until = time.monotonic() + seconds
        with self._change:
            self._shut = True
            while self._inside:
                left = until - time.monotonic()
                if left <= 0:
                    raise DeadlineExceededError("closing the door while transfers are inside the store", seconds)
                self._change.wait(left)


def answering(otherwise: Callable[..., R]) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """A method that answers ``otherwise(*arguments)`` where it fails, or where the door is closed.

    An exception would end the thread of SGLang's that called, and with it every transfer to come.
    """

    def made(call: Callable[..., R]) -> Callable[..., R]:
        @functools.wraps(call)
        def guarded(self: Any, *given: Any, **named: Any) -> R:
            if not self._gate.enter():
                return otherwise(*given, **named)
            try:
                return call(self, *given, **named)
            except Exception:
                _log.exception("%s failed", call.__name__)
                return otherwise(*given, **named)
            finally:
                self._gate.leave()

        return guarded

    return made
