"""What a caller says of a batch call: which request it is for, and where its keys stand in their prefix chain.

For callers whose calls of one request come from many threads, or of many requests from one. Hints only: a wrong one
costs an eviction policy some precision, never a chunk. Nothing here knows stores or policies.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from lms_tiers.errors import ConfigError
from lms_tiers.keys import KeyLike, key_text


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The context of batch calls; one object may serve all calls of its request, from any thread.

    Attributes
    ----------
    request : int, str or None
        The request's id; None where it does not matter which accesses belong together.
    chain : sequence of keys
        The keys of the request's whole prefix chain, as far as known; the keys of a call are found in it.
    position : int or None
        Where the first key of a call stands in the chain, from 0 on. None: where `chain` has it, else behind `chain`.
    partial_keys : collection of keys
        Chunks that the request fills only partly (almost never reused).
    promote : bool
        False: what the call reads is not offered to faster tiers, as of a scan that comes by once.

    Raises
    ------
    ConfigError
        `position` is negative.
    InvalidKeyError

    Examples
    --------
    >>> from lms_tiers import OpaqueKey
    >>> context = RequestContext("chatcmpl-7", chain=[OpaqueKey("a"), OpaqueKey("b")])
    >>> context.place(["b", "c"])
    (1, 'a', 3)
    """

    request: int | str | None = None
    chain: Sequence[KeyLike] = ()
    position: int | None = None
    partial_keys: Collection[KeyLike] = ()
    promote: bool = True
    _texts: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _partial: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.position is not None and self.position < 0:
            raise ConfigError(f"position {self.position} is negative: a chain begins at 0.")
        object.__setattr__(self, "_texts", tuple(map(key_text, self.chain)))
        object.__setattr__(self, "_partial", frozenset(map(key_text, self.partial_keys)))

    def place(self, texts: Sequence[str]) -> tuple[int, str | None, int]:
        """Where the first of the key texts of a call stands, the text before it, and how long the chain is with it."""
        chain, start = self._texts, self.position
        if start is None:
            try:
                start = chain.index(texts[0])
            except (IndexError, ValueError):
                start = len(chain)
        parent = chain[start - 1] if 0 < start <= len(chain) else None
        return start, parent, max(len(chain), start + len(texts))

    def partly(self, text: str) -> bool:
        """Whether the request fills this chunk only partly."""
        return text in self._partial
