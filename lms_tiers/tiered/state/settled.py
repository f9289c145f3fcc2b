"""Which keys the index tells the truth about, while the lowest tier is being taken over in the background."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterator
from typing import Final

from lms_tiers.changes import Deadline
from lms_tiers.tiered.state.tier import Tier


class Settled(ABC):
    """The keys of `tier` that are settled: in the index, or in `seen`. The index tells the truth about them for good.

    Whoever takes the tier over (see life/loading.py) gives the methods; every call on a key settles it first.

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
    def unlisted(self, listed: Container[str]) -> Iterator[str]:
        """Keys held that are not `listed`, a moment of the index after which this was called.

        Raises
        ------
        StorageUnavailableError
        """
