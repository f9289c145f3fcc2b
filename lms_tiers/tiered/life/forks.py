"""Stores do not survive a fork: in the child each is told so, and no call has to ask which process it is in."""

from __future__ import annotations

import os
import weakref
from typing import Final

from lms_tiers.tiered.state.hierarchy import Hierarchy

_watched: Final[weakref.WeakSet[Hierarchy]] = weakref.WeakSet()


def watch(hierarchy: Hierarchy) -> None:
    """From a fork on, in the child, `hierarchy` is closing."""
    _watched.add(hierarchy)


def _after_fork() -> None:
    for hierarchy in list(_watched):
        hierarchy.closing = True


os.register_at_fork(after_in_child=_after_fork)
