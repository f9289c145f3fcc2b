"""What was moved since SGLang asked last, in the terms of its own record of a storage."""

from __future__ import annotations

import threading
from typing import Any, Final

#: Batches that are kept while nobody asks.
_MOST: Final = 4096
_GB: Final = 1e9


class Moved:
    """Pages and rates of batches; bounded."""

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._batches: list[tuple[bool, int, float]] = []

    def add(self, loaded: bool, pages: int, nbytes: int, seconds: float) -> None:
        """A batch of `pages` of together `nbytes` bytes was loaded, or stored."""
        if pages:
            with self._lock:
                if len(self._batches) < _MOST:
                    self._batches.append((loaded, pages, nbytes / _GB / max(seconds, 1e-9)))

    def into(self, record: Any) -> Any:
        """Put it into SGLang's record (pages, GB/s), and begin anew."""
        with self._lock:
            batches, self._batches = self._batches, []
        for loaded, pages, rate in batches:
            kind = "prefetch" if loaded else "backup"
            getattr(record, f"{kind}_pgs").append(pages)
            getattr(record, f"{kind}_bandwidth").append(rate)
        return record
