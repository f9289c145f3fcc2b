"""Hazard: keeps the chunks that are most likely to return soon, for their age, their use and their request.

Leaf first: a chunk with held children is pinned by them. Partly filled last chunks are not kept. Use counts outlive
eviction in an id-only ghost list. What is worth how much is learned online (hazard_model.py) from a few features that
any prefix-caching workload has: how often the chunk was used, how many new chunks the request brought that used it
last, how long that request was, how well known the point was where its new part began, and how long the chunk had
waited before. Victims are leaves of least worth; a chunk of less worth than all held ones is not admitted.

Related: N. Beckmann et al., "LHD: Improving Cache Hit Rate by Maximizing Hit Density", NSDI 2018, which learns hit
density by age and class, without chains; docs/policies.md has the ablations.
"""

from __future__ import annotations

import heapq
from array import array
from collections import OrderedDict
from collections.abc import Callable, Container, Iterator
from typing import ClassVar, Final

from lms_tiers.policies.base import AccessContext, EvictionPolicy, RemoveReason
from lms_tiers.policies.hazard_model import ReturnModel, age_bin, uses_bucket
from lms_tiers.policies.saved import MAX_SAVED_KEYS, hashes, key_hash, pack, unpack

#: Departed keys remembered: so many, and so many for each held one. 250 bytes each.
_GHOSTS: Final = 1 << 16
_GHOSTS_PER_KEY: Final = 4
#: Returns between two lessons: at least so many, and this fraction of all before.
_LESSON: Final = 512
_LESSON_FRACTION: Final = 32


class _Run:
    """Neighbouring chunks of one chain that share class and time of last use; its last held chunk may be a leaf."""

    __slots__ = ("held", "kind", "last", "members", "nodes", "order", "queued")

    def __init__(self, kind: int, last: float, order: int) -> None:
        self.kind = kind
        self.last = last
        self.order = order
        self.nodes: list[_Node] = []
        self.held = 0
        self.members = 0  # held and departed chunks that were last used in this run
        self.queued = False


class _Node:
    """One known chunk, held or departed."""

    __slots__ = ("held", "key", "kids", "parent", "run", "size", "uses")

    def __init__(self, key: str, size: int) -> None:
        self.key = key
        self.size = size
        self.uses = 0
        self.kids = 0  # held children
        self.held = False
        self.parent: _Node | None = None
        self.run: _Run | None = None


class Hazard(EvictionPolicy):
    """Evicts the leaf whose further stay earns the fewest hits per second."""

    name: ClassVar[str] = "hazard"

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        super().__init__(capacity, clock)
        self._model = ReturnModel()
        self._held: dict[str, _Node] = {}
        self._ghosts: OrderedDict[int, _Node] = OrderedDict()
        self._nbytes = 0
        self._now = float("-inf")
        self._orders = 0
        self._runs: list[_Run] = []  # with held chunks, or emptied since the last pricing
        self._past: list[_Run] = []  # with members, or emptied since the last lesson
        self._heap: list[tuple[float, int, _Run]] = []
        self._since_pricing = 0
        # The request whose accesses are coming in; classed when it is over.
        self._request: int | None = None
        self._open: list[_Node] = []
        self._before: list[_Run | None] = []
        self._start = 0
        self._length = 0
        self._pending = _Run(0, 0.0, -1)
        self._unoffered: list[_Run] = []

    # -- accesses ----------------------------------------------------------------------------------------------------

    def admit(self, key: str, size: int, context: AccessContext) -> bool:
        """Refuses partial tails, chunks whose parent it just refused, and chunks of less worth than all held."""
        if context.partial:
            return False
        self._turn_to(context)
        parent = self._open[-1] if self._open else None
        orphan = parent is not None and not parent.held and parent.key == context.parent
        if not orphan and (self._nbytes + size <= self.capacity or self._arriving(key, context) >= self._least()):
            return True
        if context.request_id is not None:  # else it may be asked again for the same use
            node = self._known(key, size)
            node.key = key
            self._access(node, context)
        return False

    def _arriving(self, key: str, context: AccessContext) -> float:
        model = self._model
        ghost = self._ghosts.get(hash(key))
        if ghost is not None:
            return model.worth[uses_bucket(ghost.uses + 1)][0]
        known = context.position
        for i, run in enumerate(self._before):
            if run is None:
                known = self._start + i
                break
        new = max(self._length, context.length, context.position + 1) - known
        kind = model.class_of((0, *self._shape(new, known + new, self._boundary()), 0))
        return model.worth[model.rows[kind]][0]

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:  # noqa: D102
        node = self._known(key, size)
        node.key, node.size, node.held = key, size, True
        self._ghosts.pop(hash(key), None)
        self._held[key] = node
        self._nbytes += size
        if node.run is not None:
            node.run.held += 1
        if node.parent is not None:
            node.parent.kids += 1
        self._access(node, context)

    def on_hit(self, key: str, context: AccessContext) -> None:  # noqa: D102
        self._access(self._held[key], context)

    def _known(self, key: str, size: int) -> _Node:
        node = self._ghosts.get(hash(key))
        return node if node is not None else _Node(key, size)

    def _access(self, node: _Node, context: AccessContext) -> None:
        if context.request_id != self._request or context.request_id is None:
            self._turn_to(context)
        if node.run is self._pending:
            return
        if context.parent is not None:
            self._tie(node, context.parent)
        if not self._open:
            self._start = max(context.position, 0)
        self._open.append(node)
        self._before.append(node.run)
        self._length = max(self._length, context.length, context.position + 1)
        if node.run is not None and node.held:
            node.run.held -= 1
        node.run = self._pending

    def _tie(self, node: _Node, parent_key: str) -> None:
        parent: _Node | None = self._open[-1] if self._open else None
        if parent is None or parent.key != parent_key:
            parent = self._held.get(parent_key) or self._ghosts.get(hash(parent_key))
        if parent is not node.parent and parent is not node:
            if node.held:
                self._untie(node)
                if parent is not None:
                    parent.kids += 1
            node.parent = parent

    def _untie(self, node: _Node) -> None:
        parent = node.parent
        if parent is not None:
            parent.kids -= 1
            if not parent.kids and parent.held and parent.run is not self._pending:
                self._offer(parent.run)  # type: ignore[arg-type]  # a held chunk is in a run

    # -- the end of a request: its chunks get their class ------------------------------------------------------------

    def _turn_to(self, context: AccessContext) -> None:
        if context.request_id == self._request and context.request_id is not None:
            return
        if self._open:
            self._close()
        self._request = context.request_id
        self._length = 0
        if context.now > self._now:
            self._now = context.now
            if self._model.fresh > _LESSON + self._model.known // _LESSON_FRACTION:
                self._learn()
            elif self._since_pricing > 64 + len(self._runs) // 2:
                self._price()

    def _boundary(self) -> int:
        uses = 0
        for node, run in zip(self._open, self._before, strict=True):
            if run is None:
                break
            uses = node.uses
        return uses

    @staticmethod
    def _shape(new: int, length: int, boundary: int) -> tuple[int, int, int]:
        return min(new.bit_length(), 6), min(max(length.bit_length() - 3, 0), 5), min(boundary.bit_length(), 6)

    def _close(self) -> None:
        now, model = self._now, self._model
        known = next((i for i, run in enumerate(self._before) if run is None), len(self._before)) + self._start
        length = max(self._length, self._start + len(self._open))
        shape = self._shape(length - known, length, self._boundary())
        run: _Run | None = None
        before: _Run | None = None
        uses = returned = 0
        for node, old in zip(self._open, self._before, strict=True):
            node.uses += 1
            if run is None or old is not before or node.uses != uses:
                if before is not None:
                    self._note_return(before, returned)
                before, uses, returned = old, node.uses, 0
                gap = 0 if old is None else min(1 + int(now - old.last).bit_length(), 12)
                run = self._new_run(model.class_of((uses_bucket(uses), *shape, gap)))
            returned += 1
            run.members += 1
            node.run = run
            if node.held:
                run.held += 1
                run.nodes.append(node)
            else:
                self._remember(node)
        if before is not None:
            self._note_return(before, returned)
        self._since_pricing += len(self._open)
        self._open, self._before = [], []
        for fresh in self._unoffered:
            if fresh.held:
                self._runs.append(fresh)
                self._offer(fresh)
        self._unoffered.clear()

    def _new_run(self, kind: int) -> _Run:
        self._orders += 1
        run = _Run(kind, self._now, self._orders)
        self._past.append(run)
        self._unoffered.append(run)
        return run

    def _note_return(self, run: _Run, count: int) -> None:
        self._model.returned(run.kind, self._now - run.last, count)
        run.members -= count

    def _remember(self, node: _Node) -> None:
        h = hash(node.key)
        if node.run is not self._pending:
            node.key = ""
        ghosts = self._ghosts
        ghosts[h] = node
        ghosts.move_to_end(h)
        while len(ghosts) > _GHOSTS + _GHOSTS_PER_KEY * len(self._held):
            self._forget(ghosts.popitem(last=False)[1])

    def _forget(self, node: _Node) -> None:
        run = node.run
        if run is not None and run is not self._pending:
            self._model.lost(run.kind, self._now - run.last, 1)
            run.members -= 1
            node.run = None

    # -- leaving -----------------------------------------------------------------------------------------------------

    def on_remove(self, key: str, reason: RemoveReason) -> None:  # noqa: D102
        node = self._held.pop(key)
        node.held = False
        self._nbytes -= node.size
        if node.run is not None:
            node.run.held -= 1
        self._untie(node)
        if reason is RemoveReason.REMOVED:
            self._forget(node)
        else:
            self._remember(node)

    def _tail(self, run: _Run) -> _Node | None:
        nodes = run.nodes
        while nodes and (nodes[-1].run is not run or not nodes[-1].held):
            nodes.pop()  # used again since, or gone
        return nodes[-1] if nodes else None

    def _offer(self, run: _Run) -> None:
        if not run.queued:
            tail = self._tail(run)
            if tail is not None and not tail.kids:
                run.queued = True
                heapq.heappush(self._heap, (self._price_of(run), run.order, run))

    def _price_of(self, run: _Run) -> float:
        model = self._model
        return model.worth[model.rows[run.kind]][age_bin(self._now - run.last)]

    def _price(self) -> None:
        """Price all leaves at their present age."""
        self._since_pricing = 0
        self._runs = [run for run in self._runs if run.held]
        self._heap = []
        for run in self._runs:
            run.queued = False
            tail = self._tail(run)
            if tail is not None and not tail.kids:
                run.queued = True
                self._heap.append((self._price_of(run), run.order, run))
        heapq.heapify(self._heap)

    def _learn(self) -> None:
        self._past = [run for run in self._past if run.members]
        self._model.learn((run.kind, self._now - run.last, run.members) for run in self._past)
        self._price()

    def _top(self) -> tuple[float, int, _Run] | None:
        heap = self._heap
        while heap:
            run = heap[0][2]
            tail = self._tail(run)
            if tail is not None and not tail.kids:
                return heap[0]
            heapq.heappop(heap)
            run.queued = False
        return None

    def _least(self) -> float:
        top = self._top()
        return top[0] if top is not None else 0.0

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        """Leaves by worth, a parent once its last child was named; then what is pinned, and last the open request."""
        top = self._top()
        if top is not None and bytes_needed > 0:
            tail = self._tail(top[2])
            if tail is not None and tail.key not in protected and tail.size >= bytes_needed:
                yield tail.key  # the usual case: one chunk makes room for one chunk
                bytes_needed -= tail.size
                if bytes_needed <= 0:
                    return
        yield from self._plan(bytes_needed, protected)

    def _plan(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        heap = self._heap[:]
        named: set[str] = set()
        kids: dict[int, int] = {}  # held children not yet named, of parents of named chunks
        at: dict[int, int] = {}  # index in a run of its last chunk not yet named
        while heap and bytes_needed > 0:
            _, _, run = heapq.heappop(heap)
            i = at.get(id(run), len(run.nodes) - 1)
            while i >= 0 and bytes_needed > 0:
                node = run.nodes[i]
                if node.run is run and node.held:
                    if node.key in protected or kids.get(id(node), node.kids):
                        break
                    named.add(node.key)
                    bytes_needed -= node.size
                    yield node.key
                    parent = node.parent
                    if parent is not None and parent.held:
                        kids[id(parent)] = kids.get(id(parent), parent.kids) - 1
                        up = parent.run
                        if not kids[id(parent)] and up is not None and up is not run and up is not self._pending:
                            heapq.heappush(heap, (self._price_of(up), up.order, up))
                i -= 1
            at[id(run)] = i
        opened = {node.key for node in self._open if node.held}
        others = [key for key in self._held if key not in named and key not in opened]
        for key in (*others, *(node.key for node in reversed(self._open) if node.held)):
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
        newest = sorted(self._held.values(), key=lambda node: node.run.order if node.run is not None else 0)
        newest = newest[-MAX_SAVED_KEYS:]
        saved = self._model.save()
        saved["keys"] = hashes(node.key for node in newest)
        saved["uses"] = array("q", (node.uses for node in newest))
        return pack("hazard/1", saved)

    def restore(self, state: bytes) -> None:
        """Learn what was learned, and give the held keys their use counts."""
        saved = unpack("hazard/1", state)
        if saved is None:
            return
        if self._open:
            self._close()
        self._model.load(saved)
        held = {key_hash(key): node for key, node in self._held.items()}
        for h, uses in zip(saved["keys"], saved["uses"], strict=True):
            if h in held:
                held[h].uses = uses
        self._price()
