"""Mutants whose medium stalls or dies: they wait too long, lose what they said was stored, or do not come back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, Optional, TypeVar

from lms_conformance.shared import SharedReference
from lms_conformance.zoo.mutant import mutant
from lms_tiers.errors import StorageUnavailableError
from lms_tiers.messages import CacheEngineKey, LMSMemoryObj

_T = TypeVar("_T")

#: Seconds that are for ever to whoever waits for a deadline.
_FOR_EVER: Final = 3600.0


@mutant("waits-for-what-it-reads", "LIV-01", base="shared")
class WaitsForReads(SharedReference):
    """get_many of several keys waits until the engine answers, however long that takes."""

    def get_many(self, keys: Any) -> list[LMSMemoryObj | None]:
        while len(keys) > 1 and not self.engine.answering.wait(0.05):
            self._check()
        return super().get_many(keys)


@mutant("says-stored-before-it-is", "LIV-02", base="shared")
class SaysStored(SharedReference):
    """A put that no answer came to returns as if it were stored, and the engine never hears of it."""

    def _write(self, operation: str, call: Callable[[], object]) -> None:
        if operation == "put" and not self.engine.answering.is_set():
            return
        super()._write(operation, call)


@mutant("leaves-a-thread-that-waits", "LIV-03", base="shared")
class LeavesAThread(SharedReference):
    """A read that no answer comes to is left to a thread, which waits on for the engine after close."""

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        if not self.engine.answering.is_set():
            threading.Thread(target=self.engine.answering.wait, args=(_FOR_EVER,), daemon=True).start()
        return super().get(key)


@mutant("stays-off-after-a-stall", "LIV-04", base="shared")
class StaysOff(SharedReference):
    """After three reads without an answer it asks the engine no more."""

    _unanswered = 0

    def _read(self, call: Callable[[], _T], otherwise: _T) -> _T:
        self._check()
        if self._unanswered >= 3:
            return otherwise
        before = self._failures
        answer = super()._read(call, otherwise)
        if self._failures > before and not self.engine.down:
            self._unanswered += 1
        return answer


@mutant("stays-off-after-a-death", "LIV-05", base="shared")
class StaysOffAfterDeath(SharedReference):
    """Once nobody could be reached it holds the engine for dead."""

    _dead = False

    def _answered(self) -> bool:
        self._dead |= self.engine.down
        if self._dead:
            raise StorageUnavailableError("the shared engine", "is dead.")
        return super()._answered()


@mutant("opens-when-it-is-answered", "LIV-06", base="shared")
class OpensWhenAnswered(SharedReference):
    """Opening waits for the engine, however long that takes."""

    def __init__(self, name: str = "", capacity: int | None = None, timeout: float = 5.0) -> None:
        super().__init__(name, capacity, timeout)
        self.engine.answering.wait(_FOR_EVER)


@mutant("asks-one-after-the-other", "LIV-07", base="shared")
class OneAfterTheOther(SharedReference):
    """Calls wait for one another: each has its time-out, and their sum has none."""

    def __init__(self, name: str = "", capacity: int | None = None, timeout: float = 5.0) -> None:
        super().__init__(name, capacity, timeout)
        self._one: Final = threading.Lock()

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        with self._one:
            return super().get(key)
