"""Hazard: keeps the chunks that are most likely to return soon, for their age, their use and their request.

Leaf first: a chunk with held children is pinned by them. Partly filled last chunks are not kept. Use counts outlive
eviction in an id-only ghost list. What is worth how much is learned online (hazard_model.py) from a few features that
any prefix-caching workload has: how often the chunk was used, how many new chunks the request brought that used it
last, how far it lay from that request's end, how well known the point was where its new part began, how long the
chunk had waited before, and whether its conversation has gone on without it. Victims are leaves of least worth
(hazard_runs.py); a chunk of less worth than all held ones is not admitted.

Related: N. Beckmann et al., "LHD: Improving Cache Hit Rate by Maximizing Hit Density", NSDI 2018, which learns hit
density by age and class, without chains; docs/policies.md has the ablations.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Container, Iterator
from typing import ClassVar, Final

from lms_tiers.policies.base import AccessContext, EvictionPolicy, RemoveReason
from lms_tiers.policies.hazard_model import Features, ReturnModel, uses_bucket, weight
from lms_tiers.policies.hazard_request import OpenRequest
from lms_tiers.policies.hazard_runs import Node, Ranking, Request, Run
from lms_tiers.policies.saved import MAX_SAVED_KEYS, hashes, key_hash, pack, unpack

#: Departed keys remembered: so many, and so many for each held one. 250 bytes each.
_GHOSTS: Final = 1 << 16
_GHOSTS_PER_KEY: Final = 4
#: Returns between two lessons: at least so many, and this fraction of all before.
_LESSON: Final = 512
_LESSON_FRACTION: Final = 20
#: A chunk used as often as this is shared: that one request went another way from it says nothing about the others.
_SHARED: Final = 8
#: The class of a chunk that was used in another tier only.
_UNSEEN: Final = Features(0, 0, 0, 0, 0)
_LAYOUT: Final = "hazard/2"


def _moved(context: AccessContext) -> bool:
    """Whether a chunk comes from another tier: its place in a chain is known, and no request asked for it."""
    return context.request_id is None and context.position >= 0


class Hazard(EvictionPolicy):
    """Evicts the leaf whose further stay earns the fewest hits per second."""

    name: ClassVar[str] = "hazard"

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        super().__init__(capacity, clock)
        self._model = ReturnModel()
        self._ranking = Ranking(self._model)
        self._held: dict[str, Node] = {}
        self._ghosts: OrderedDict[int, Node] = OrderedDict()
        self._nbytes = 0
        self._now = float("-inf")
        self._past: list[Run] = []  # with members, or emptied since the last lesson
        self._since_pricing = 0
        self._open = OpenRequest(None)
        self._pending = Run(0, 0.0, None)

    # -- accesses ----------------------------------------------------------------------------------------------------

    def admit(self, key: str, size: int, context: AccessContext) -> bool:
        """Refuses partial tails, chunks whose parent it just refused, and chunks of less worth than all held."""
        if context.partial:
            return False
        if _moved(context):
            return self._nbytes + size <= self.capacity or self._moving(key) >= (self._ranking.top() or (0.0,))[0]
        if context.request_id != self._open.id or context.request_id is None:
            self._turn_to(context)
        opened = self._open
        if context.parent not in opened.refused:
            need = self._nbytes + opened.promised_bytes + size - self.capacity
            if need <= 0:
                return opened.promise(key, size)
            least = self._ranking.least(need, self._pending)
            if least is None:  # only this request's own chunks could leave: its head is worth more than its tail
                welcome = not opened.nodes and not opened.promised
            else:
                welcome = self._arriving(key, context) >= least
            if welcome:
                return opened.promise(key, size)
        if context.request_id is not None and key not in opened.refused:  # a store may ask again for the same use
            node = opened.refused[key] = self._ghosts.get(hash(key)) or Node(key, size)
            node.key = key
            self._access(node, context)
        return False

    def _moving(self, key: str) -> float:
        """What a chunk is worth that comes from another tier."""
        ghost = self._ghosts.get(hash(key))
        if ghost is not None and ghost.run is not None and ghost.run is not self._pending:
            return self._model.price(ghost.run.kind, self._now - ghost.run.last)
        return self._model.price(self._model.class_of(_UNSEEN), 0.0)

    def _move_in(self, node: Node, context: AccessContext) -> None:
        """Hold a chunk from another tier, outside of any request; its children may have come before."""
        old, now = node.run, self._now
        if old is self._pending:
            return
        if old is None:
            run = Run(self._model.class_of(_UNSEEN), now, None)
            node.uses = max(node.uses, 1)
        else:
            old.members -= 1
            old.held -= 1
            if context.demoted:
                run = Run(old.kind, old.last, None)
                run.each = old.each
            else:
                self._model.returned(old.kind, now - old.last, 1, old.each)
                node.uses += 1
                run = Run(self._class_of(node.uses, 0, 0, now - old.last, old, 0), now, None)
        node.run = run
        run.nodes.append(node)
        run.held = run.members = 1
        if context.parent is not None and (node.parent is None or node.parent.key != context.parent):
            self._tie(node, context.parent)
        self._past.append(run)
        self._since_pricing += 1
        self._ranking.add(run)

    def _arriving(self, key: str, context: AccessContext) -> float:
        """What a chunk will be worth when its request is over, as far as that is known now."""
        ghost = self._ghosts.get(hash(key))
        run, uses = (None, 0) if ghost is None else (ghost.run, ghost.uses)
        opened = self._open
        guess = opened.guess
        if guess is not None and guess[0] is run and guess[1] == uses:
            return guess[2]
        place = max(context.position, 0)
        length = max(opened.length, context.length, place + 1)
        known = opened.known if opened.known >= 0 else place
        if run is not None and run.request is not None:  # likely all that its last request had is asked again
            known = min(max(known, run.request.chunks), length)
        last = opened.nodes[-1].uses if opened.nodes else 0
        gap = 0.0 if run is None else self._now - run.last
        kind = self._class_of(uses + 1, length - known, last if run is None else uses, gap, run, length - place)
        worth = self._model.price(kind, 0.0)
        opened.guess = (run, uses, worth)
        return worth

    def _class_of(self, uses: int, new: int, boundary: int, gap: float, old: Run | None, depth: int) -> int:
        return self._model.class_of(
            Features(
                uses_bucket(uses),
                min(new.bit_length(), 6),
                min(boundary.bit_length(), 6),
                0 if old is None else min(1 + int(gap).bit_length(), 12),
                min(depth.bit_length(), 8),
            )
        )

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:  # noqa: D102
        node = self._ghosts.pop(hash(key), None)
        opened = self._open
        if opened.promised:
            opened.promised_bytes -= opened.promised.pop(key, 0)
        if opened.refused:
            node = opened.refused.pop(key, node)
        if node is None:
            node = Node(key, size)
        else:
            node.key, node.size = key, size
        node.held = True
        self._held[key] = node
        self._nbytes += size
        run = node.run
        if run is not None:
            run.held += 1
        if node.parent is not None:
            node.parent.kids += 1
        if _moved(context):
            self._now = max(self._now, context.now)
            self._move_in(node, context)
        else:
            self._access(node, context)

    def on_hit(self, key: str, context: AccessContext) -> None:  # noqa: D102
        self._access(self._held[key], context)

    def on_shrink(self, key: str, size: int) -> None:  # noqa: D102
        node = self._held[key]
        self._nbytes += size - node.size
        node.size = size

    def _access(self, node: Node, context: AccessContext) -> None:
        if context.request_id != self._open.id or context.request_id is None:
            self._turn_to(context)
        run, pending = node.run, self._pending
        if run is pending:
            return
        if context.parent is not None and (node.parent is None or node.parent.key != context.parent):
            self._tie(node, context.parent)
        if run is not None and node.held:
            run.held -= 1
            if not run.held:
                self._ranking.drop(run)
        self._open.use(node, run, context)
        node.run = pending

    def _tie(self, node: Node, parent_key: str) -> None:
        parent: Node | None = self._open.nodes[-1] if self._open.nodes else None
        if parent is None or parent.key != parent_key:
            parent = self._held.get(parent_key) or self._ghosts.get(hash(parent_key))
        if parent is None and node.held:  # it may come later
            parent = self._ghosts[hash(parent_key)] = Node(parent_key, 0)
        if parent is not node.parent and parent is not node:
            if node.held:
                self._untie(node)
                if parent is not None:
                    parent.kids += 1
            node.parent = parent

    def _untie(self, node: Node) -> None:
        parent = node.parent
        if parent is not None:
            parent.kids -= 1
            if not parent.kids and parent.held and parent.run is not None:
                self._ranking.offer(parent.run)

    # -- the end of a request: its chunks get their class ------------------------------------------------------------

    def _turn_to(self, context: AccessContext) -> None:
        if context.request_id == self._open.id and context.request_id is not None:
            return
        if self._open.nodes:
            self._close()
        self._open = OpenRequest(context.request_id)
        if context.now > self._now:
            self._now = context.now
            if self._model.fresh > _LESSON + self._model.known // _LESSON_FRACTION:
                self._learn()
            elif self._since_pricing > 64 + len(self._ranking) // 8:
                self._price()

    def _close(self) -> None:
        opened, now = self._open, self._now
        opened.finish()
        nodes, before, start, length, new = (
            opened.nodes, opened.before, opened.start, opened.length, opened.length - opened.known
        )  # fmt: skip
        boundary, left = opened.boundary() or (None, None)
        well_known = boundary.uses if boundary is not None else 0
        request = Request(start + len(nodes))
        run: Run | None = None
        old: Run | None = None
        uses = -1
        for i, node in enumerate(nodes):
            if run is None or before[i] is not old or node.uses != uses:
                if run is not None:
                    self._finish(run, old)
                old, uses = before[i], node.uses
                gap = 0.0 if old is None else now - old.last
                kind = self._class_of(uses + 1, new, well_known, gap, old, length - start - i)
                run = Run(kind, now, request)
            node.uses = uses + 1
            node.run = run
            run.members += 1
            if node.held:
                run.held += 1
                run.nodes.append(node)
            else:
                self._remember(node)
        if run is not None:
            self._finish(run, old)
        self._since_pricing += len(nodes)
        self._open = OpenRequest(None)
        if left is not None and left.request is not None and well_known < _SHARED:
            self._leave(left, well_known)
        for fresh in request.runs:
            if fresh.held:
                self._ranking.add(fresh)

    def _finish(self, run: Run, old: Run | None) -> None:
        run.each = weight(run.members)
        self._past.append(run)
        if run.request is not None:
            run.request.runs.append(run)
        if old is not None:
            self._model.returned(old.kind, self._now - old.last, run.members, old.each)
            old.members -= run.members

    def _leave(self, where: Run, uses: int) -> None:
        """A conversation took another way at `where`: what its request before had beyond is likely done with."""
        request = where.request
        if request is None or where not in request.runs:
            return
        for run in request.runs[request.runs.index(where) :]:
            if run.members and run.request is request:
                age, amount = self._now - run.last, run.members * run.each
                self._model.lost(run.kind, age, amount)
                run.kind = self._model.class_of(
                    self._model.features(run.kind)._replace(left=1 + min(uses.bit_length(), 5))
                )
                self._model.entered(run.kind, age, amount)
                self._ranking.reclass(run)
        request.runs.clear()

    def _remember(self, node: Node) -> None:
        h = hash(node.key)
        if node.run is not self._pending:
            node.key = ""
        ghosts = self._ghosts
        ghosts[h] = node
        ghosts.move_to_end(h)
        if len(ghosts) > _GHOSTS + _GHOSTS_PER_KEY * len(self._held):
            self._forget(ghosts.popitem(last=False)[1])

    def _forget(self, node: Node) -> None:
        run = node.run
        if run is not None and run is not self._pending:
            self._model.lost(run.kind, self._now - run.last, run.each)
            run.members -= 1
            node.run = None

    # -- leaving -----------------------------------------------------------------------------------------------------

    def on_remove(self, key: str, reason: RemoveReason) -> None:  # noqa: D102
        node = self._held.pop(key)
        node.held = False
        self._nbytes -= node.size
        run = node.run
        if run is not None:
            run.held -= 1
            if not run.held:
                self._ranking.drop(run)
        self._untie(node)
        if reason is RemoveReason.REMOVED:
            self._forget(node)
        else:
            self._remember(node)

    def _price(self) -> None:
        self._since_pricing = 0
        self._ranking.price(self._now)

    def _learn(self) -> None:
        self._past = [run for run in self._past if run.members]
        self._model.learn((run.kind, self._now - run.last, run.members * run.each) for run in self._past)
        self._price()

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        """Leaves by worth, a parent once its last child was named; then what is pinned, and last the open request."""
        top = self._ranking.peek()
        if top is not None and bytes_needed > 0:
            node = top[1]
            if node.key not in protected and node.size >= bytes_needed:
                yield node.key  # the usual case: one chunk makes room for one chunk
                return
        named: set[str] = set()
        for _, node in self._ranking.plan(bytes_needed, protected, self._pending):
            named.add(node.key)
            bytes_needed -= node.size
            yield node.key
        if bytes_needed <= 0:
            return
        opened = {node.key for node in self._open.nodes if node.held}
        others = [key for key in self._held if key not in named and key not in opened]
        for key in (*others, *(node.key for node in reversed(self._open.nodes) if node.held)):
            if bytes_needed <= 0:
                return
            if key not in protected:
                bytes_needed -= self._held[key].size
                yield key

    def __len__(self) -> int:
        return len(self._held)

    # -- restart -----------------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        """What was learned, and the use counts of the newest held keys; ghosts are not saved."""
        newest = sorted(self._held.values(), key=lambda node: node.run.last if node.run is not None else 0.0)
        newest = newest[-MAX_SAVED_KEYS:]
        saved = self._model.save()
        saved["keys"] = hashes(node.key for node in newest)
        saved["uses"] = array("q", (node.uses for node in newest))
        return pack(_LAYOUT, saved)

    def restore(self, state: bytes) -> None:
        """Learn what was learned, and give the held keys their use counts."""
        saved = unpack(_LAYOUT, state)
        if saved is None:
            return
        if self._open.nodes:
            self._close()
        self._model.load(saved)
        held = {key_hash(key): node for key, node in self._held.items()}
        for h, uses in zip(saved["keys"], saved["uses"], strict=True):
            if h in held:
                held[h].uses = uses
        self._price()
