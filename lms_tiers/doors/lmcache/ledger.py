"""What LMCache was told is stored, and the telling of every change to it, in order.

It follows the truth by level, not by edge: whoever learns that keys may have changed says which, and each is compared
with what the store says of it at that moment. So hints may come late, twice, or in any order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from sortedcontainers import SortedDict

from lms_tiers.messages import ChunkMeta

#: Key texts, and their chunks' lengths in bytes.
Told = Callable[[Sequence[str], Sequence[int]], None]
Look = Callable[[str], ChunkMeta | None]

#: Keys of one call of a listener.
_TOGETHER: Final = 1024


class Ledger:
    """Key texts and metadata, sorted by text. `stored` and `deleted` are called with the lock held, in turn.

    Parameters
    ----------
    stored, deleted : callable
        Told of keys that were not there before, and of keys that were. They may call this ledger.
    """

    def __init__(self, stored: Told, deleted: Told) -> None:
        self._stored: Final = stored
        self._deleted: Final = deleted
        self._lock: Final = threading.RLock()
        self._metas: Final[SortedDict[str, ChunkMeta]] = SortedDict()

    def __len__(self) -> int:
        return len(self._metas)

    def get(self, text: str) -> ChunkMeta | None:
        """What was told of a key last. Takes no lock."""
        found: ChunkMeta | None = self._metas.get(text)
        return found

    def sync(self, texts: Sequence[str], look: Look) -> None:
        """Compare what was told of `texts` with what `look` says of each now, and tell what has changed."""
        gone: list[tuple[str, int]] = []
        came: list[tuple[str, int]] = []
        with self._lock:
            try:
                for text in dict.fromkeys(texts):
                    now, before = look(text), self._metas.get(text)
                    if now == before:
                        continue
                    if before is not None:
                        gone.append((text, before.length))
                        del self._metas[text]
                    if now is not None:
                        came.append((text, now.length))
                        self._metas[text] = now
            finally:
                if gone:
                    self._deleted(*_columns(gone))
                if came:
                    self._stored(*_columns(came))

    def replay(self, begin: Callable[[], None], stored: Told) -> None:
        """Call `begin`, then tell `stored` of all there is; no change is told in between."""
        with self._lock:
            begin()
            items = [(text, meta.length) for text, meta in self._metas.items()]
            for at in range(0, len(items), _TOGETHER):
                stored(*_columns(items[at : at + _TOGETHER]))

    def texts(self) -> list[str]:
        """Every key's text."""
        with self._lock:
            return list(self._metas)

    def after(self, text: str) -> Iterator[tuple[str, ChunkMeta]]:
        """Keys behind `text`, sorted; the ledger may change meanwhile."""
        while True:
            with self._lock:
                found = []
                for key in self._metas.irange(text, inclusive=(False, True)):
                    found.append((key, self._metas[key]))
                    if len(found) == _TOGETHER:
                        break
            if not found:
                return
            yield from found
            text = found[-1][0]


def _columns(items: Sequence[tuple[str, int]]) -> tuple[list[str], list[int]]:
    return [text for text, _ in items], [length for _, length in items]
