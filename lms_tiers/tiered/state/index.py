"""What the store knows of each chunk, and who holds it: calls under way, and leases. No bytes, no policy.

The index (canonical key text → `Entry`) is the truth: a backend that holds a key the index does not grant is invisible.
What is held is not evicted. A call is noted under its thread before it takes anything: an interrupted one cannot be
trusted to give back what it took, and what it took is known here all the same (audit.py). The caller holds the store's
lock, but for the methods of `Load`.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Container, Sequence
from dataclasses import dataclass
from threading import get_ident
from typing import Any, Final, NamedTuple

from lms_tiers.messages import CacheEngineKey, ChunkMeta, key_text

#: Pinned chunks that may be in the way each time victims are chosen.
IN_THE_WAY: Final = 32

#: Leases of holders at one time; more are refused: callers forget to give them back.
MOST_LEASES = 1 << 20

#: Outdated records in the heap, beyond one a lease, that are worth making it anew.
_OUTDATED: Final = 1024

#: Leases that are over and are cleared away in one go: 50,000 of them at one time would hold the store's lock for long.
_AT_ONCE: Final = 128

#: The end of a lease, and who holds it; None: nobody, it is the one that `pin` replaces.
_Lease = tuple[float, str | None]

#: Distinct tuples of charges kept for sharing; chunks of one model take few different sizes.
_SHARED_CHARGES: Final = 1 << 16


@dataclass(slots=True, eq=False)
class Entry:
    """One generation of one chunk. Its identity is the generation: ``index[text] is entry`` means "still the newest".

    Attributes
    ----------
    meta : ChunkMeta
    tiers : int
        Bit i: tier i is granted, it holds the bytes of this generation. Bit (number of tiers + i): tier i cannot hold
        a chunk of this size. The bit above them: it was hit below the top since it was there last. A live entry (one
        in the index) is granted in one tier at least; the grants of a dead one are frozen, so that a reader without
        the lock never sees a stored key in no tier.
    charges : tuple of int
        Physical bytes charged in each tier, 0 where not granted.
    parent : str or None
    position : int
        Where the chunk stands in its prefix chain, as far as its put told: lower tiers' policies want it later.
    """

    meta: ChunkMeta
    tiers: int
    charges: tuple[int, ...]
    parent: str | None = None
    position: int = -1


class Fit(NamedTuple):
    """What a chunk of one length needs.

    Attributes
    ----------
    needs : tuple of int or None
        Bytes to reserve in each tier, None where it never fits.
    unfit : int
        The bits of an `Entry` for the latter.
    """

    needs: tuple[int | None, ...]
    unfit: int


class Charges:
    """Tuples of charges, shared between entries: 8 bytes an entry instead of 70."""

    __slots__ = ("_shared", "nowhere")

    def __init__(self, tiers: int) -> None:
        self.nowhere: Final = (0,) * tiers
        self._shared: dict[tuple[int, ...], tuple[int, ...]] = {}

    def changed(self, charges: tuple[int, ...], position: int, nbytes: int) -> tuple[int, ...]:
        """`charges` with another value at `position`."""
        given = list(charges)
        given[position] = nbytes
        new = tuple(given)
        if len(self._shared) < _SHARED_CHARGES:
            return self._shared.setdefault(new, new)
        return self._shared.get(new, new)


class Claim(NamedTuple):
    """One thread is the mutator of one key in one tier.

    Attributes
    ----------
    thread : int
    need : int
        Bytes reserved for what it is going to write.
    entry : Entry or None
        The generation that it writes; None where it deletes, or where another call writes again what it leaves.
    """

    thread: int
    need: int = 0
    entry: Entry | None = None


class Busy(dict[str, Claim]):
    """Keys with a mutator, who is the only one to write or delete their bytes in the tier's backend."""

    __slots__ = ()

    def add(self, *texts: str) -> None:
        """This thread becomes the mutator of `texts`."""
        self.update(dict.fromkeys(texts, Claim(get_ident())))

    def discard(self, *texts: str) -> None:
        """None of `texts` has a mutator any more."""
        for text in texts:
            self.pop(text, None)


class Pins:
    """Leases of keys: one of nobody, and any number of each holder. A heap by their ends: nobody walks them all.

    Examples
    --------
    >>> pins = Pins()
    >>> pins.pin("a", 10.0)
    >>> pins.lease("a", 11.0, "request 7")
    True
    >>> pins.expire(10.0)
    1
    >>> "a" in pins
    True
    >>> pins.give_back("a", "request 7")
    True
    >>> "a" in pins, len(pins)
    (False, 0)
    """

    __slots__ = ("_count", "_ends", "_leases", "_now")

    def __init__(self) -> None:
        self._now = float("-inf")  # what lasts until then or less is over, cleared away or not
        self._leases: dict[str, tuple[_Lease, ...]] = {}  # none is empty
        self._ends: list[tuple[float, str]] = []  # what it says of a key holds if `_leases` says so too
        self._count = 0

    def pin(self, text: str, until: float) -> None:
        """`text` is pinned until then, whatever was said before without a holder."""
        self._put(text, ((until, None), *(lease for lease in self._leases.get(text, ()) if lease[1] is not None)))
        self._push(until, text)

    def unpin(self, text: str) -> None:
        """`text` is pinned by holders only."""
        self._put(text, tuple(lease for lease in self._leases.get(text, ()) if lease[1] is not None))

    def lease(self, text: str, until: float, holder: str) -> bool:
        """`holder` has one lease more of `text`; False where there are too many leases."""
        while self._count >= MOST_LEASES:
            if not self.expire(self._now):
                return False
        self._put(text, (*self._leases.get(text, ()), (until, holder)))
        self._push(until, text)
        return True

    def give_back(self, text: str, holder: str) -> bool:
        """Of the leases that `holder` has of `text`, the one that ends first is over; False where there is none."""
        leases = self._leases.get(text, ())
        mine = [lease for lease in leases if lease[1] == holder and lease[0] > self._now]
        if not mine:
            return False
        at = leases.index(min(mine))
        self._put(text, leases[:at] + leases[at + 1 :])
        return True

    def until(self, text: str) -> float | None:
        """When the last lease of `text` ends; None where it is not pinned."""
        leases = self._leases.get(text)
        if leases is None or (last := max(lease[0] for lease in leases)) <= self._now:
            return None
        return last

    def sort(self) -> None:
        """Make the heap anew, of what is pinned now."""
        ends = [(lease[0], text) for text, leases in self._leases.items() for lease in leases]
        heapq.heapify(ends)
        self._ends, self._count = ends, len(ends)

    def expire(self, now: float) -> int:
        """End the leases that last until `now` or less; some of them are cleared away, the others the next time.

        Answers how many records of them were looked at, a bounded number.
        """
        self._now = now
        ends, done = self._ends, 0
        while ends and done < _AT_ONCE and ends[0][0] <= now:
            until, text = heapq.heappop(ends)
            leases = self._leases.get(text)
            if leases is not None:
                self._put(text, tuple(lease for lease in leases if lease[0] != until))
            done += 1
        return done

    def _put(self, text: str, leases: tuple[_Lease, ...]) -> None:
        self._count += len(leases) - len(self._leases.get(text, ()))
        if leases:
            self._leases[text] = leases
        else:
            self._leases.pop(text, None)

    def _push(self, until: float, text: str) -> None:
        heapq.heappush(self._ends, (until, text))
        if len(self._ends) > 2 * self._count + _OUTDATED:
            self.sort()

    def __contains__(self, text: object) -> bool:
        leases = self._leases.get(text)  # type: ignore[call-overload]  # any key is one to ask for
        return leases is not None and any(lease[0] > self._now for lease in leases)

    def __len__(self) -> int:
        """Pinned keys, with those whose leases are not cleared away yet."""
        return len(self._leases)


@dataclass(slots=True, eq=False)
class Protected:
    """Keys no policy may propose: those being written or deleted, and those pinned.

    `passed` gets the pinned ones that the policy asks for.
    """

    busy: Busy
    pins: Pins
    passed: dict[str, None]

    def __contains__(self, key: object) -> bool:
        if key in self.busy:
            return True
        if key not in self.pins:
            return False
        self.passed[key] = None  # type: ignore[index]  # a pin's key is a text
        return True

    def __len__(self) -> int:
        return len(self.busy) + len(self.pins)


class Load:
    """One read of a lower tier that other readers of the same chunk share.

    Most have none: what they would wait on is made by the first that comes.
    """

    __slots__ = ("_done", "_waited", "entry", "result", "thread")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.thread = get_ident()
        self.result: Any = None
        self._done = False
        self._waited: threading.Event | None = None

    def finish(self) -> None:
        """Let those go on who wait. They make the event before they look whether it is done; here it is the reverse."""
        self._done = True
        if self._waited is not None:
            self._waited.set()

    def wait(self, seconds: float, lock: threading.Lock) -> bool:
        """Whether it was finished within `seconds`. `lock`, not held, is for those who come at once."""
        if self._waited is None:
            with lock:
                if self._waited is None:
                    self._waited = threading.Event()
        return self._done or self._waited.wait(seconds)

    @property
    def done(self) -> bool:
        """Whether it is finished."""
        return self._done


def known_text(index: Container[Any], key: CacheEngineKey) -> str:
    """The key's text. One that is in the index needs no checking: it was checked when it was put."""
    try:
        text = key.to_string()
        if text in index:
            return text
    except (AttributeError, TypeError):
        pass  # said better by the check
    return key_text(key)


def known_texts(index: Container[Any], keys: Sequence[CacheEngineKey]) -> list[str]:
    """The texts of `keys`, checked where one of them is not in the index."""
    try:
        texts = [key.to_string() for key in keys]
        if all(map(index.__contains__, texts)):
            return texts
    except (AttributeError, TypeError):
        pass  # said better by the check
    return [key_text(key) for key in keys]
