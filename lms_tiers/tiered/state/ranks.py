"""Bringing a policy and the index into line again, where an interrupt may have come between the two."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Final

from lms_tiers.policies.base import AccessContext, EvictionPolicy, RemoveReason
from lms_tiers.tiered.state.index import Entry

#: More bytes than any tier holds.
_ALL: Final = 1 << 60


def listed(policy: EvictionPolicy, most: int) -> set[str]:
    """The keys that a policy knows, `most` of them at most."""
    return set(itertools.islice(policy.victims(_ALL, ()), most))


def insert(policy: EvictionPolicy, position: int, held: Mapping[str, Entry], texts: Collection[str]) -> None:
    """Tell `policy` of the chunks `texts`, in the order of the index."""
    now = policy.clock()
    for text, entry in held.items():
        if text in texts:
            context = AccessContext(now, None, entry.parent, entry.position)
            policy.on_insert(text, entry.charges[position], context)


def align(policy: EvictionPolicy, position: int, held: Mapping[str, Entry], again: Collection[str] = ()) -> None:
    """Let `policy` know what the tier at `position` holds, and nothing else; what is in `again` it learns anew."""
    known = listed(policy, len(held) + len(policy) + 1)
    for text in known - (held.keys() - again):
        policy.on_remove(text, RemoveReason.REMOVED)
    insert(policy, position, held, held.keys() - (known - set(again)))
