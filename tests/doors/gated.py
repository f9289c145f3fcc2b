"""Work for jobs that waits until it is let go."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

PATIENCE = 60


class Gated:
    """Work of some steps, each of which marks its slot, and waits first until it is let go."""

    def __init__(self, keys: int = 1, error: BaseException | None = None, open_: bool = False) -> None:
        self.slots = bytearray(keys)
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.error = error
        self.ended = False
        if open_:
            self.gate.set()

    def __call__(self) -> Generator[tuple[Any, int], None, None]:
        try:
            for at in range(len(self.slots)):
                self.begun.set()
                assert self.gate.wait(PATIENCE)
                if self.error is not None and at == len(self.slots) - 1:
                    raise self.error
                self.slots[at] += 1
                yield (at,), 10
        finally:
            self.ended = True
