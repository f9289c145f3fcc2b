"""What the store holds of a namespace, told as it changes: routers see the tier by nothing else.

A chunk is told of as stored until it is told of as removed. Events of the store come from a thread of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

from lms_tiers.namespace import Namespace
from lms_tiers.tiered.watch.events import EventKind, TierEvent

_TOLD: Final = {EventKind.STORED: False, EventKind.PROMOTED: False, EventKind.GONE: True}
#: Keys in one event.
_BATCH: Final = 1024


class Inventory:
    """Changes that nobody has taken yet, in order.

    Until `begin` was called events are held back: they come after the listing that they change.
    """

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._namespace: Namespace | None = None
        self._changes: list[tuple[bytes, bool]] = []
        self._early: list[TierEvent] = []

    def observe(self, events: Sequence[TierEvent]) -> None:
        """Note what the store tells."""
        with self._lock:
            if self._namespace is None:
                self._early += events
            else:
                self._note(self._namespace, events)

    def begin(self, namespace: Namespace, held: Iterable[str]) -> None:
        """All that is held now, by the engine's own key texts; asked for after the store was opened."""
        listed = [(bytes.fromhex(text), False) for text in held]
        with self._lock:
            self._changes += listed
            self._note(namespace, self._early)
            self._early = []
            self._namespace = namespace

    def _note(self, namespace: Namespace, events: Sequence[TierEvent]) -> None:
        start = namespace.prefix
        for event in events:
            gone = _TOLD.get(event.kind)
            if gone is not None and event.key.startswith(start):
                self._changes.append((bytes.fromhex(event.key[len(start) :]), gone))

    def stored(self, keys: Iterable[bytes]) -> None:
        """Chunks that were stored where no events come from."""
        with self._lock:
            self._changes += [(key, False) for key in keys]

    def take(self) -> Iterator[tuple[list[bytes], bool]]:
        """What has changed since the last call: keys, and whether they are gone."""
        with self._lock:
            changes, self._changes = self._changes, []
        for gone, run in groupby(changes, lambda change: change[1]):
            keys = list(dict.fromkeys(key for key, _ in run))
            for at in range(0, len(keys), _BATCH):
                yield keys[at : at + _BATCH], gone
