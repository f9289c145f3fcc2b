"""Keys that have left and are remembered for a while, by identity alone, in the order they left."""

from __future__ import annotations

from collections import OrderedDict


class Ghosts:
    """A bounded queue of departed keys; `limit` is in bytes of the chunks they stood for."""

    __slots__ = ("_sizes", "limit", "nbytes")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._sizes: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, key: str) -> bool:
        return key in self._sizes

    def add(self, key: str, size: int, returning: str | None = None) -> None:
        """Remember `key` as the newest; the oldest go beyond the limit.

        `returning` is about to come back: it takes no room, and room made for it does not push it out.
        """
        if size > self.limit:
            return
        self.discard(key)
        self._sizes[key] = size
        self.nbytes += size
        spared = 0
        if returning is not None and returning in self._sizes:
            self._sizes.move_to_end(returning)
            spared = self._sizes[returning]
        self.shrink(self.limit + spared)

    def discard(self, key: str) -> bool:
        """Forget `key`; whether it was known."""
        size = self._sizes.pop(key, None)
        if size is None:
            return False
        self.nbytes -= size
        return True

    def shrink(self, limit: int) -> None:
        """Forget the oldest until at most `limit` bytes are remembered."""
        while self.nbytes > limit and self._sizes:
            self.nbytes -= self._sizes.popitem(last=False)[1]
