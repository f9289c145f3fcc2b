"""What stands in for a tier's policy, while the tier is being loaded or once it raised; and for what is not loaded yet.

Also how a policy and the index are brought into line again, where an interrupt may have come between the two.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Collection, Container, Iterator, Mapping
from typing import Any, Final

from lms_tiers.changes import Deadline
from lms_tiers.errors import PolicyError
from lms_tiers.policies.base import AccessContext, EvictionPolicy, RemoveReason
from lms_tiers.tiered.state.index import Entry
from lms_tiers.tiered.state.tier import Tier

#: More bytes than any tier holds.
_ALL: Final = 1 << 60


def listed(policy: EvictionPolicy, most: int) -> set[str]:
    """The keys that a policy knows, `most` of them at most."""
    return set(itertools.islice(policy.victims(_ALL, ()), most))


def insert(policy: EvictionPolicy, position: int, entries: Mapping[str, Entry], texts: Collection[str]) -> None:
    """Tell `policy` of the chunks `texts`, in the order of the index."""
    now = policy.clock()
    for text, entry in entries.items():
        if text in texts:
            context = AccessContext(now, None, entry.parent, entry.position)
            policy.on_insert(text, entry.charges[position], context)


def align(policy: EvictionPolicy, position: int, held: Mapping[str, Entry], again: Collection[str] = ()) -> None:
    """Let `policy` know what the tier at `position` holds, and nothing else; what is in `again` it learns anew."""
    known = listed(policy, len(held) + len(policy) + 1)
    for text in known - (held.keys() - again):
        policy.on_remove(text, RemoveReason.REMOVED)
    insert(policy, position, held, held.keys() - (known - set(again)))


class SuspendedPolicy(EvictionPolicy):
    """Takes every call but `victims`, whose error makes the tier fall back to a consistent state."""

    def __init__(self, policy: EvictionPolicy, error: Exception) -> None:
        super().__init__(policy.capacity, policy.clock)
        self.name = policy.name  # type: ignore[misc]  # the culprit's
        self._error = error

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:  # noqa: D102
        pass

    def on_hit(self, key: str, context: AccessContext) -> None:  # noqa: D102
        pass

    def on_shrink(self, key: str, size: int) -> None:  # noqa: D102
        pass

    def on_remove(self, key: str, reason: RemoveReason) -> None:  # noqa: D102
        pass

    def victims(self, bytes_needed: int, protected: Any) -> Iterator[str]:  # noqa: D102
        error = self._error
        raise PolicyError(self.name, f"raised {type(error).__name__}: {error}.") from error

    def __len__(self) -> int:
        return 0


class _Either:
    """What one of two containers contains."""

    __slots__ = ("_first", "_second")

    def __init__(self, first: Container[str], second: Container[str]) -> None:
        self._first = first
        self._second = second

    def __contains__(self, key: object) -> bool:
        return key in self._first or key in self._second


class LatePolicy(EvictionPolicy):
    """Stands before `policy` until everything is loaded, so that the order of use comes out as if it had not been.

    Loaded chunks go to the policy as they come, least recently used first. What is put or used meanwhile is newer than
    all of them, wherever the loading stands: it is kept back, may not leave, and is told when everything is loaded.

    Parameters
    ----------
    policy : EvictionPolicy
    state : bytes
        What it saved last time. It is restored when everything is loaded, and saved again where that never comes.
    """

    def __init__(self, policy: EvictionPolicy, state: bytes) -> None:
        super().__init__(policy.capacity, policy.clock)
        self.name = policy.name  # type: ignore[misc]  # of the one it stands before
        self.policy = policy
        self._state = state
        #: Chunks kept back, least recently used first: the size where `policy` does not know the chunk yet, and the
        #: last use; None where there was none, and the chunk's turn tells its rank.
        self._kept: dict[str, tuple[int | None, AccessContext | None]] = {}
        #: Whether an interrupt came while the state is being restored: what the policy knows is to be compared then.
        self.torn = False
        #: Chunks that left while the state is being restored.
        self._gone: dict[str, RemoveReason] | None = None
        #: Chunks that take less since then.
        self._shrunk: dict[str, int] = {}

    # -- of the loader -----------------------------------------------------------------------------------------------

    def load(self, key: str, size: int, context: AccessContext) -> None:
        """It is the turn of `key`, which nobody has asked for yet."""
        self.policy.on_insert(key, size, context)

    def adopt(self, key: str, size: int) -> None:
        """`key` was asked for before its turn, which is no use."""
        self._kept[key] = (size, None)

    def meet(self, key: str, context: AccessContext) -> None:
        """It is the turn of `key`, which is held already."""
        size, used = self._kept.get(key, (None, None))
        if size is not None and used is None:
            del self._kept[key]
            self.policy.on_insert(key, size, context)

    def begin_anew(self, held: Mapping[str, int]) -> None:
        """The policy was interrupted itself and may be torn: a new one learns what it knew of `held` (key → size)."""
        self.policy = type(self.policy)(self.capacity, self.clock)
        now = AccessContext(self.clock())
        for key, size in held.items():
            if self._kept.get(key, (None, None))[0] is None:
                self.policy.on_insert(key, size, now)

    def reconcile(self, held: Mapping[str, int]) -> None:
        """Know of `held` (key → size), after an interrupt, and of nothing else."""
        known = listed(self.policy, len(held) + len(self.policy) + 1) if self._gone is None else None
        self.torn = known is None
        for key in [key for key in self._kept if key not in held]:
            self.on_remove(key, RemoveReason.REMOVED)
        if known is None:
            return  # it is the loader's
        for key in known - held.keys():
            self.policy.on_remove(key, RemoveReason.REMOVED)
        for key, size in held.items():
            if key not in known:
                used = self._kept.pop(key, (None, None))[1]
                self._kept[key] = (size, used)

    def freeze(self) -> None:
        """Everything is loaded: until `thaw` the policy is the loader's, without the lock, to `restore_state`."""
        self._gone = {}

    def restore_state(self) -> None:
        """Let the policy take its state over."""
        if self._state:
            self.policy.restore(self._state)

    def thaw(self) -> EvictionPolicy:
        """Tell the policy what was kept back; from here on it stands for itself."""
        policy, gone, self._gone = self.policy, self._gone or {}, None
        for key, less in self._shrunk.items():
            policy.on_shrink(key, less)
        for key, reason in gone.items():
            policy.on_remove(key, reason)
        if policy.capacity != self.capacity:
            policy.on_resize(self.capacity)
        for key, (size, used) in self._kept.items():
            context = used or AccessContext(self.clock())
            if size is None:
                policy.on_hit(key, context)
            else:
                policy.on_insert(key, size, context)
        return policy

    # -- a policy's own ----------------------------------------------------------------------------------------------

    def admit(self, key: str, size: int, context: AccessContext) -> bool:  # noqa: D102
        return self._gone is not None or self.policy.admit(key, size, context)

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:  # noqa: D102
        self._kept[key] = (size, context)

    def on_hit(self, key: str, context: AccessContext) -> None:  # noqa: D102
        size, _ = self._kept.pop(key, (None, None))
        self._kept[key] = (size, context)

    def on_shrink(self, key: str, size: int) -> None:  # noqa: D102
        kept = self._kept.get(key)
        if kept is not None and kept[0] is not None:
            self._kept[key] = (size, kept[1])
        elif self._gone is None:
            self.policy.on_shrink(key, size)
        else:
            self._shrunk[key] = size

    def on_remove(self, key: str, reason: RemoveReason) -> None:  # noqa: D102
        size, _ = self._kept.pop(key, (None, None))
        if size is not None:
            return
        if self._gone is None:
            self.policy.on_remove(key, reason)
        else:
            self._gone[key] = reason

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        """Loaded chunks only: fewer bytes than needed, where too few are loaded as yet."""
        if self._gone is None:
            yield from self.policy.victims(bytes_needed, _Either(protected, self._kept))

    def __len__(self) -> int:
        return len(self.policy) + sum(size is not None for size, _ in self._kept.values()) - len(self._gone or ())

    def on_resize(self, capacity: int) -> None:
        """Kept for `thaw` while the policy is the loader's."""
        self.capacity = capacity
        if self._gone is None:
            self.policy.on_resize(capacity)

    def state(self) -> bytes:
        """What was saved last time: half an order is worse than an old one."""
        return self._state


class Settled(ABC):
    """The keys of `tier` that are settled: in the index, or in `seen`. The index tells the truth about them for good.

    Whoever takes the tier over (see life/loading.py) gives the methods; every call on a key settles it first, but those
    that only ask whether it is there.

    Parameters
    ----------
    nbytes : int
        Physical bytes of what the tier holds, none of it settled.
    """

    def __init__(self, tier: Tier, nbytes: int) -> None:
        self.tier: Final = tier
        #: Keys that were put, or left the index, since the start: their bytes in the backend are no longer those of
        #: the start. Guarded by the store's lock, read without it.
        self.seen: Final[set[str]] = set()
        #: Keys that could not be looked up before they changed, as long as their bytes of the start are stale and not
        #: overwritten. Guarded by the store's lock.
        self.unweighed: Final[set[str]] = set()
        #: What chunks that are not settled are charged with.
        self.unsettled_bytes = nbytes
        #: Whether what is not settled is stale, to be deleted as it is listed.
        self.cleared = False

    @property
    @abstractmethod
    def moves(self) -> bool:
        """Whether something comes of waiting for the rest. The lock is held."""

    @abstractmethod
    def start(self) -> None:
        """Begin to take the tier over."""

    @abstractmethod
    def stop(self, timeout: float) -> bool:
        """Take nothing more over; False where the backend does not come back in `timeout` seconds."""

    @abstractmethod
    def wait(self, deadline: Deadline) -> None:
        """Return when everything is taken over.

        Raises
        ------
        DeadlineExceededError
        StorageUnavailableError
            The backend cannot list its chunks now.
        """

    def clear(self) -> None:
        """Let everything that is not settled be stale. The lock is held."""
        self.cleared = True

    @abstractmethod
    def settle(self, text: str, change: bool = False) -> None:
        """Make the index tell the truth about `text`; for good, where its caller is going to `change` it.

        Where the backend does not answer, a reader takes the chunk for absent. What it may hold under a key that is
        about to change is stale from now on.
        """

    @abstractmethod
    def holds(self, text: str) -> bool:
        """Whether `text` is not settled and the backend holds it, which stays so; False where the index tells."""

    @abstractmethod
    def unlisted(self, listed: Container[str]) -> Iterator[str]:
        """Keys held that are not `listed`, a moment of the index after which this was called.

        Raises
        ------
        StorageUnavailableError
        """
