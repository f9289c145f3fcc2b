"""The two ends of a store's life: which tiers make one, and how one is shut down; in a forked child it is over."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Final

from lms_tiers.changes import Deadline
from lms_tiers.errors import ConfigError
from lms_tiers.interface import Capabilities
from lms_tiers.tiered.life import warm
from lms_tiers.tiered.life.flush import Flusher
from lms_tiers.tiered.paths.beyond import Beyond
from lms_tiers.tiered.paths.mover import Mover
from lms_tiers.tiered.paths.room import Room
from lms_tiers.tiered.state.hierarchy import Hierarchy
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.watch.events import EventLog

_log = logging.getLogger(__name__)

_watched: Final[weakref.WeakSet[Hierarchy]] = weakref.WeakSet()


def check_tiers(tiers: Sequence[TierConfig]) -> None:
    """Refuse tiers that make no store (`ConfigError`)."""
    if not tiers:
        raise ConfigError("a store needs one tier at least.")
    names = [tier.name for tier in tiers]
    for i, tier in enumerate(tiers):
        if names.count(tier.name) > 1:
            raise ConfigError(f"two tiers are called {tier.name!r}: give each a name of its own.")
        shared = tier.backend.capabilities.shared
        if shared:
            _check_shared(tier, i, len(tiers))
        if not tier.backend.capabilities.remove:
            raise ConfigError(f"the backend of tier {tier.name!r} cannot remove, so it cannot be a tier: use it alone.")
        if tier.capacity is None and tiers[i + 1 :]:
            raise ConfigError(f"tier {tier.name!r} has a tier below it and no capacity: nothing would ever move down.")
        if tier.capacity is not None and tier.capacity <= 0:
            raise ConfigError(f"tier {tier.name!r}: capacity must be positive, not {tier.capacity}.")


def _check_shared(tier: TierConfig, position: int, count: int) -> None:
    if position + 1 < count:
        raise ConfigError(f"tier {tier.name!r} is shared with others, so it must be the lowest: move it to the end.")
    if not position:
        raise ConfigError(f"tier {tier.name!r} is shared with others: put a private tier above it, or use it alone.")
    if tier.capacity is not None or tier.policy is not None:
        raise ConfigError(
            f"tier {tier.name!r} is shared with others: its capacity and policy are its engine's business, "
            "leave them out here and set them there."
        )
    if tier.deadline <= 0 or (tier.revalidate is not None and tier.revalidate <= 0):
        raise ConfigError(f"tier {tier.name!r}: deadline and revalidate must be positive.")


def store_capabilities(tiers: Sequence[TierConfig]) -> Capabilities:
    """What a store over `tiers` offers."""
    keys = [t.backend.capabilities.max_key_bytes for t in tiers]
    top, lowest = tiers[0], tiers[-1]
    limits = [t.backend.capabilities.max_value_bytes for t in tiers]
    sizes = [n for n in limits if n is not None]
    return Capabilities(
        remove=True,
        persistent=lowest.backend.capabilities.persistent,
        tensors=top.backend.capabilities.tensors,
        evicts=lowest.capacity is not None or lowest.backend.capabilities.evicts,
        policy=top.policy.name if len(tiers) == 1 and top.capacity is not None and top.policy is not None else None,
        write_behind=lowest.backend.capabilities.shared,
        max_key_bytes=min((n for n in keys if n is not None), default=None),
        max_value_bytes=max(sizes) if len(sizes) == len(limits) else None,
    )


def shut_down(
    hierarchy: Hierarchy, room: Room, flusher: Flusher, movers: Sequence[Mover], log: EventLog, timeout: float,
    beyond: Beyond | None = None,
) -> None:  # fmt: skip
    """Flush, save, end the movers, close the backends.

    `timeout` seconds for the calls that are running and the flush, and as many for the rest.
    """
    clean: list[bool] = []
    mine = threading.get_ident()  # a signal may have come in the middle of a call: it does not end before this one
    left = _let_end(hierarchy, timeout, mine)

    def flush() -> None:
        deadline = Deadline("flush", left)
        flusher.flush_private(deadline)
        clean.append(True)  # whatever becomes of what is shared
        if beyond is not None:
            beyond.flush(deadline)

    _in_time("flush", flush, left + 0.1)
    until = time.monotonic() + timeout
    loading = hierarchy.loading
    loaded = loading is None or loading.stop(timeout)
    ended = _end_threads(hierarchy, movers, until)
    ended[-1] &= loaded
    if clean:
        _in_time("save", lambda: _tidy(hierarchy, room, until, mine), max(0.1, until - time.monotonic()))
    closing = [(tier.name, tier.backend, free) for tier, free in zip(hierarchy.tiers, ended, strict=True)]
    if beyond is not None:
        closing.append((beyond.edge.name, beyond.backend, beyond.close(until)))
    for name, backend, free in closing:
        wait = max(0.1, until - time.monotonic()) if free else 0.1
        if not _in_time(f"close of tier {name!r}", backend.close, wait):
            _log.error("tier %r did not close in time and was left behind", name)
    log.close(max(0.1, until - time.monotonic()))


def give_up(hierarchy: Hierarchy, movers: Sequence[Mover], log: EventLog, timeout: float) -> None:
    """The store cannot be opened: end its threads, in `timeout` seconds. Its backends are its caller's still."""
    until = time.monotonic() + timeout
    with hierarchy.lock:
        hierarchy.closing = True
    _end_threads(hierarchy, movers, until)
    log.close(max(0.1, until - time.monotonic()))


def _end_threads(hierarchy: Hierarchy, movers: Sequence[Mover], until: float) -> list[bool]:
    """End the movers and those who read for callers, by `until`; for each tier, whether all of its own ended."""
    with hierarchy.lock:
        for mover in movers:
            mover.stop()
    return [
        mover.join(max(0.0, until - time.monotonic())) & mover.tier.askers.close(max(0.0, until - time.monotonic()))
        for mover in movers
    ]


def _let_end(hierarchy: Hierarchy, timeout: float, thread: int) -> float:
    """Wait for what others than `thread` write and delete, but not in tiers that are switched off.

    Answers the seconds left.
    """
    h = hierarchy
    until = time.monotonic() + timeout
    with h.lock:
        running = [
            (tier, text, claim) for tier in h.tiers for text, claim in tier.busy.items() if claim.thread != thread
        ]
    while True:
        with h.lock:
            for tier in h.tiers:
                tier.look()
            running = [
                (tier, text, claim) for tier, text, claim in running if h.up & tier.bit and tier.busy.get(text) is claim
            ]
            left = until - time.monotonic()
            if not running or left <= 0:
                h.over = True
                return max(0.0, left)
            change = h.change()
        h.wait(change, min(left, 0.05))


def _tidy(hierarchy: Hierarchy, room: Room, until: float, thread: int) -> None:
    """Delete what calls that were still running left behind, then save what the tiers remember."""
    while True:
        with hierarchy.lock:
            others = any(claim.thread != thread for tier in hierarchy.tiers for claim in tier.busy.values())
            if not others or time.monotonic() >= until:
                break
            change = hierarchy.change()
        hierarchy.wait(change, 0.01)
    with hierarchy.lock:
        stale = [[k for k in tier.garbage if k not in tier.busy] for tier in hierarchy.tiers]
        for tier, keys in zip(hierarchy.tiers, stale, strict=True):
            tier.busy.add(*keys)
    for tier, keys in zip(hierarchy.tiers, stale, strict=True):
        if keys:
            room.delete(tier, keys)
    warm.save(hierarchy)


def _in_time(what: str, call: Callable[[], None], timeout: float) -> bool:
    """Make a call in a thread of its own: a backend that never comes back must not keep the process."""

    def run() -> None:
        try:
            call()
        except Exception as error:
            _log.warning("%s while closing: %r", what, error)

    thread = threading.Thread(target=run, name="lms-tiers-closing", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # there can be no more threads: better late than not at all
        run()
        return True
    thread.join(timeout)
    return not thread.is_alive()


def watch_forks(hierarchy: Hierarchy) -> None:
    """From a fork on, in the child, `hierarchy` is closing."""
    _watched.add(hierarchy)


def _after_fork() -> None:
    for hierarchy in list(_watched):
        hierarchy.closing = True


os.register_at_fork(after_in_child=_after_fork)
