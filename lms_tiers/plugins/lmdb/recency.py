"""Uses noted in memory until a commit takes them along: a read must not cost a write."""

from __future__ import annotations

import threading
from collections.abc import Iterable

#: Uses kept before they are written without being asked.
MOST: int = 16384


class Uses:
    """Key hashes in the order of their last use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._noted: dict[bytes, None] = {}

    def __bool__(self) -> bool:
        return bool(self._noted)

    def note(self, hashes: Iterable[bytes]) -> bool:
        """Note uses, oldest first; whether so many are kept that they should be written."""
        with self._lock:
            for hashed in hashes:
                self._noted.pop(hashed, None)
                self._noted[hashed] = None
            return len(self._noted) > MOST

    def take(self) -> dict[bytes, None]:
        """All that were noted; a commit that fails gives them back."""
        with self._lock:
            taken, self._noted = self._noted, {}
        return taken

    def give_back(self, taken: dict[bytes, None]) -> None:
        """They were not written; what was noted since is newer."""
        if taken:
            with self._lock:
                for hashed in self._noted:
                    taken.pop(hashed, None)
                self._noted = {**taken, **self._noted}
