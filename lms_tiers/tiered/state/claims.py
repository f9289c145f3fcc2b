"""What calls under way hold of a tier, each noted under the thread it runs in before it is taken.

An interrupted call cannot be trusted to give back what it took; what it took is known here all the same (audit.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from threading import get_ident
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from lms_tiers.tiered.state.index import Entry


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

    def add(self, text: str) -> None:
        """This thread becomes the mutator of `text`."""
        self[text] = Claim(get_ident())

    def add_all(self, texts: Iterable[str]) -> None:
        """This thread becomes the mutator of all `texts`."""
        claim = Claim(get_ident())
        for text in texts:
            self[text] = claim

    def discard(self, text: str) -> None:
        """`text` has no mutator any more."""
        self.pop(text, None)

    def discard_all(self, texts: Iterable[str]) -> None:
        """None of `texts` has."""
        for text in texts:
            self.pop(text, None)
