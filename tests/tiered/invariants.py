"""What holds of a tiered store whenever its lock is free, and what besides when nothing is under way.

Worked out anew from what each part knows of its own: the index, the policies' listings, the backends' bytes. Nothing of
the store's own bookkeeping is believed.
"""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

from lms_tiers.arena.backend import ArenaBackend
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.tiered.state.stand_ins import LatePolicy, SuspendedPolicy

#: Seconds until what still moves counts as stuck, which a test of stuck backends leaves behind.
PATIENCE = 60.0


def check(store: Any, patience: float = PATIENCE, whole: bool = True) -> None:
    """Fail where the store contradicts itself; wait for its movers first, and where they rest, look at all.

    `whole`: nothing may be under way, and no tier may be above its budget.
    """
    resting = settle(store, patience)
    with store._h.lock:
        wrong = [*contradictions(store), *(leftovers(store, whole) if resting else ())]
    assert not wrong, "\n".join(wrong)
    assert resting or not whole, "the store does not come to rest"


def settle(store: Any, patience: float) -> bool:
    """Wait until the movers have nothing to do and nobody is inside."""
    deadline = time.monotonic() + patience
    pause = threading.Event()
    while time.monotonic() < deadline:
        with store._h.lock:
            sending = store._beyond is not None and not store._beyond.sender.idle and not store._h.closing
            if store._h.loading is None and not sending and all(rests(store, mover) for mover in store._movers):
                return True
        pause.wait(0.001)
    return False


def rests(store: Any, mover: Any) -> bool:
    tier = mover.tier
    if store._h.closing:
        return bool(mover._thread is None or not mover._thread.is_alive())
    return bool(mover.idle and not tier.queue and not tier.garbage and not tier.calls and not tier.busy)


def contradictions(store: Any) -> list[str]:
    """At any moment at which the lock is free. The lock is held."""
    h = store._h
    wrong: list[str] = []

    def must(condition: Any, *what: object) -> None:
        if not condition:
            wrong.append(" ".join(map(str, what)))

    for text, entry in h.index.items():
        must(entry.tiers & h.all, text, "is in the index and in no tier")
        for tier in h.tiers:
            if not entry.tiers & tier.bit:
                must(not entry.charges[tier.position], text, "is charged in", tier.name, "which does not hold it")
    for tier in h.tiers:
        held = {k: e.charges[tier.position] for k, e in h.index.items() if e.tiers & tier.bit}
        account = {
            "held": sum(held.values()), "stale": sum(tier.garbage.values()), "reserved": sum(tier.reserved.values()),
            "to come": h.loading.unsettled_bytes if h.loading is not None and h.loading.tier is tier else 0,
        }  # fmt: skip
        must(tier.used == sum(account.values()), tier.name, "uses", tier.used, "by its books, and", account)
        must(not held.keys() & tier.garbage.keys(), tier.name, "holds what is stale", held.keys() & tier.garbage.keys())
        must(tier.keys == len(held), tier.name, "counts", tier.keys, "keys and holds", len(held))
        must(tier.peak >= tier.used, tier.name, "had at most", tier.peak, "and uses", tier.used)
        must(min(account.values()) >= 0, tier.name, account)
        must(tier.writing <= tier.busy.keys(), tier.name, "overwrites what nobody is at", tier.writing)
        must(tier.queue_bytes == sum(q[3] for q in tier.queue), tier.name, "queues", tier.queue_bytes, "bytes")
        must(tier.dirty_bytes == sum(tier.dirty.values()), tier.name, "counts", tier.dirty_bytes, "dirty bytes")
        must(tier.wanted >= 0, tier.name, "wants", tier.wanted)
        if not isinstance(tier.policy, (LatePolicy, SuspendedPolicy)):
            # One key more than there are would be a ring without an end.
            listed = list(itertools.islice(tier.policy.victims(account["held"] + 1, ()), len(held) + 1))
            must(len(listed) == len(set(listed)), tier.name, "has a policy that repeats itself")
            must(set(listed) == held.keys(), tier.name, "has a policy that differs by", set(listed) ^ held.keys())
            must(len(tier.policy) == len(held), tier.name, "has a policy of", len(tier.policy), "keys")
    if h.edge is not None:
        edge = h.edge
        must(
            edge.queue.keys() <= edge.unsent.keys(), "to be sent and not unsent", edge.queue.keys() - edge.unsent.keys()
        )
        lost = {text for text, change in edge.unsent.items() if change.lost}
        must(edge.lost.keys() == lost, "lost", edge.lost.keys() ^ lost)
        must(not edge.queue.keys() & lost, "to be sent and lost", edge.queue.keys() & lost)
    for mover in store._movers:
        queued = {pick[0] for pick in mover.tier.queue}
        must(queued <= mover._queued.keys(), "the mover of", mover.tier.name, "forgets", queued - mover._queued.keys())
    return wrong


def leftovers(store: Any, whole: bool) -> list[str]:
    """What must be gone when nothing is under way. The lock is held."""
    h = store._h
    wrong: list[str] = []
    if h.edge is not None:
        wrong += [f"is being read in the shared tier: {text}" for text in h.edge.asked]
        for text, change in h.edge.unsent.items():
            if not (change.lost or change.entry is None or change.data or h.index.get(text) is change.entry):
                wrong.append(f"{text} is to be sent, and its bytes are gone")
    for tier, mover in zip(h.tiers, store._movers, strict=True):
        left = {
            "mutators": dict(tier.busy), "being overwritten": tier.writing, "reserved": tier.reserved,
            "calls": tier.calls, "shared reads": tier.loads, "flushes": tier.watchers, "wanted": tier.wanted,
            "told": mover.eager, "moves": mover._queued.keys() - {pick[0] for pick in tier.queue},
        }  # fmt: skip
        if left.pop("calls") and not h.closing:  # a read that came too late may be inside for ever
            wrong.append(f"{tier.name}: inside the backend: {tier.calls}")
        wrong += [f"{tier.name}: {what}: {found}" for what, found in left.items() if found]
        # A resize that found nothing to leave says so, and what is above the new capacity stays.
        if tier.used > (tier.budget if whole else max(tier.budget, tier._opened_capacity or 0)):
            wrong.append(f"{tier.name} uses {tier.used} of {tier.budget} bytes")
        held = weight(tier.backend)
        if held is not None and held > tier.used:
            wrong.append(f"{tier.name} is charged {tier.used} bytes and holds {held}")
    return wrong


def weight(backend: Any) -> int | None:
    """What a backend in memory really holds; None of one that cannot be looked into, or is closed."""
    backend = getattr(backend, "inner", backend)
    if isinstance(backend, ArenaBackend) and not backend._arena._closed:
        return backend.stats().bytes_used
    if not isinstance(backend, LMSLocalBackend) or backend._closed:
        return None
    return sum(len(data) for data, _ in list(backend._chunks.values()))
