"""Which chunks the store holds, asked behind the scheduler: an answer is kept as long as a request refers to it.

A first look answers None, which vLLM takes for "ask again": a synchronous hit that meets a full primary tier would
become a miss there, and the prompt would be computed anew. What is looked up in one step is one batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field
from typing import Final

from lms_tiers.doors.jobs import Jobs, Queue, State

#: Batches that may wait for a store that is stuck; beyond, chunks are taken for absent at once.
_MOST_WAITING: Final = 64

Ask = Callable[[Sequence[bytes], str], Sequence[bool]]


@dataclass(eq=False, slots=True)
class _Look:
    """One key that is looked up; `found` is None until somebody knows."""

    asked: float
    found: bool | None = None
    requests: set[str] = field(default_factory=set)


class Lookups:
    """Answers to look-ups. All methods but `close` are the scheduler's, and none of them waits.

    Parameters
    ----------
    name : str
    ask : callable
        Which of some keys the store holds, for a request; runs in a thread of this object's own.
    patience : float
        Seconds after which a look-up that nobody has answered is a miss: a prompt is computed rather than kept waiting.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(self, name: str, ask: Ask, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask: Final = ask
        self._patience: Final = patience
        self._clock: Final = clock
        self._jobs: Final = Jobs(f"{name}-lookup", workers=1)
        self._looks: dict[bytes, _Look] = {}
        self._of: dict[str, set[bytes]] = {}
        self._batch: dict[str, dict[bytes, _Look]] = {}
        self._fresh = False
        self.late = 0

    def lookup(self, key: bytes, request: str) -> bool | None:
        """Whether `key` is held; None: not known yet."""
        if not self._fresh:
            self._collect()
        look = self._looks.get(key)
        if look is None:
            look = self._looks[key] = _Look(self._clock())
            self._batch.setdefault(request, {})[key] = look
        look.requests.add(request)
        self._of.setdefault(request, set()).add(key)
        if look.found is None and self._clock() - look.asked > self._patience:
            look.found = False
            self.late += 1
        return look.found

    def flush(self) -> None:
        """The end of a step: ask the store for what was looked up in it."""
        self._collect()
        self._fresh = False
        batches, self._batch = self._batch, {}
        for request, looks in batches.items():
            looks = {key: look for key, look in looks.items() if look.requests and look.found is None}
            if not looks:
                continue
            if self._jobs.counts()[0] >= _MOST_WAITING:
                self._answer(looks.values(), [False] * len(looks))
                self.late += len(looks)
                continue
            self._jobs.submit(Queue.LOAD, self._work(list(looks), request), len(looks), list(looks.values()))

    def _work(self, keys: list[bytes], request: str) -> Callable[[], Generator[tuple[list[int], int], None, None]]:
        def work() -> Generator[tuple[list[int], int], None, None]:
            yield [at for at, held in enumerate(self._ask(keys, request)) if held], 0

        return work

    def _collect(self) -> None:
        self._fresh = True
        for result in self._jobs.poll():
            if result.state is not State.CANCELLED:
                self._answer(result.tag, result.succeeded)

    @staticmethod
    def _answer(looks: Collection[_Look], found: Sequence[bool]) -> None:
        for look, held in zip(looks, found, strict=True):
            if look.found is None:  # else it was given up, or a load has failed meanwhile
                look.found = held

    def missing(self, keys: Collection[bytes]) -> None:
        """A load of `keys` has failed: they read as absent to all who refer to them now."""
        for key in keys:
            look = self._looks.get(key)
            if look is not None:
                look.found = False

    def forget(self, request: str) -> None:
        """A request has ended."""
        for key in self._of.pop(request, ()):
            look = self._looks[key]
            look.requests.discard(request)
            if not look.requests:
                del self._looks[key]

    def __len__(self) -> int:
        return len(self._looks)

    def close(self, timeout: float | None) -> None:
        """End the thread (`DeadlineExceededError` where the store keeps it)."""
        self._jobs.close(timeout)
