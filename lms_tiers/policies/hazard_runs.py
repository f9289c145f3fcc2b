"""What the `hazard` policy knows of chunks: nodes, runs of neighbours that age together, and the ranking of runs.

A run holds neighbouring chunks of one chain with one use count that were last used by one request; they share their
worth, and leave from the tail. Nothing here learns.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Container, Iterator
from typing import Final

import numpy as np

from lms_tiers.policies.hazard_model import ReturnModel, age_bins

#: Candidates a pricing puts in order: at least so many, and this fraction of all runs.
_CANDIDATES: Final = 64
_CANDIDATE_FRACTION: Final = 16


class Request:
    """What is remembered of a request: the runs its chunks went into, in the order of its chain."""

    __slots__ = ("chunks", "runs")

    def __init__(self, chunks: int) -> None:
        self.chunks = chunks
        self.runs: list[Run] = []


class Run:
    """See the module.

    Attributes
    ----------
    kind : int
        Class in the model.
    last : float
        When it was used.
    nodes : list of Node
        In the order of the chain; those used again since, or departed, are skipped when met.
    held, members : int
        Chunks held, and chunks known, held or departed.
    each : float
        What one chunk counts in the statistics.
    """

    __slots__ = ("each", "held", "kind", "last", "members", "nodes", "queued", "request", "slot")

    def __init__(self, kind: int, last: float, request: Request | None) -> None:
        self.kind = kind
        self.last = last
        self.request = request
        self.nodes: list[Node] = []
        self.held = 0
        self.members = 0
        self.each = 1.0
        self.queued = False
        self.slot = -1

    def leaf(self) -> Node | None:
        """The last held chunk, if no held chunk continues it."""
        nodes = self.nodes
        while nodes:
            node = nodes[-1]
            if node.run is self and node.held:
                return None if node.kids else node
            nodes.pop()
        return None


class Node:
    """One known chunk, held or departed."""

    __slots__ = ("held", "key", "kids", "parent", "run", "size", "uses")

    def __init__(self, key: str, size: int) -> None:
        self.key = key
        self.size = size
        self.uses = 0
        self.kids = 0  # held children
        self.held = False
        self.parent: Node | None = None
        self.run: Run | None = None


class Ranking:
    """Orders the leaves of all runs by worth.

    All runs are priced at once every so often; only those of least worth go onto a heap. A run that becomes a leaf in
    between joins them if it is worth less than the ones that did not.
    """

    def __init__(self, model: ReturnModel) -> None:
        self._model = model
        self._runs: list[Run] = []
        self._kinds = array("q")  # by slot, −1 where nothing is held
        self._lasts = array("d")
        self._heap: list[tuple[float, int, Run]] = []
        self._bound = float("inf")
        self._pushed = 0
        self._barren = False
        self._now = 0.0

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, run: Run) -> None:
        """Rank a new run with held chunks."""
        run.slot = len(self._runs)
        self._runs.append(run)
        self._kinds.append(run.kind)
        self._lasts.append(run.last)
        self.offer(run)

    def drop(self, run: Run) -> None:
        """A run's last held chunk has left."""
        if run.slot >= 0:
            self._kinds[run.slot] = -1

    def reclass(self, run: Run) -> None:
        """A ranked run changed its class."""
        if run.slot >= 0 and run.held:
            self._kinds[run.slot] = run.kind
            run.queued = False
            self.offer(run)

    def offer(self, run: Run) -> None:
        """A run's tail may have become a leaf."""
        if not run.queued and run.slot >= 0 and run.leaf() is not None:
            self._barren = False
            price = self._price_of(run)
            if price < self._bound:
                self._push(price, run)

    def _push(self, price: float, run: Run) -> None:
        run.queued = True
        self._pushed += 1
        heapq.heappush(self._heap, (price, self._pushed, run))

    def price(self, now: float, everything: bool = False) -> None:
        """Price all runs at their present age."""
        self._now = now
        for entry in self._heap:
            entry[2].queued = False
        self._heap.clear()
        self._bound = float("inf")
        kinds = np.array(self._kinds, dtype=np.int64)
        live = np.nonzero(kinds >= 0)[0]
        if 2 * len(live) + _CANDIDATES < len(kinds):
            self._compact(live.tolist())
            kinds, live = kinds[live], np.arange(len(live))
        if not len(live):
            return
        rows = np.array(self._model.rows, dtype=np.int64)[kinds[live]]
        worth = self._model.table[rows, age_bins(now - np.array(self._lasts)[live])]
        order = live
        few = _CANDIDATES + len(live) // _CANDIDATE_FRACTION
        if few < len(live) and not everything:
            chosen = np.argpartition(worth, few)
            self._bound = float(worth[chosen[few]])
            worth, order = worth[chosen[:few]], live[chosen[:few]]
        at = np.lexsort((order, worth))
        runs = self._runs
        for price, slot in zip(worth[at].tolist(), order[at].tolist(), strict=True):
            run = runs[slot]
            if run.leaf() is not None:
                run.queued = True
                self._pushed += 1
                self._heap.append((price, self._pushed, run))  # in order: already a heap

    def _compact(self, live: list[int]) -> None:
        for run in self._runs:
            run.slot = -1
        self._runs = [self._runs[slot] for slot in live]
        for slot, run in enumerate(self._runs):
            run.slot = slot
        self._kinds = array("q", (run.kind for run in self._runs))
        self._lasts = array("d", (run.last for run in self._runs))

    def peek(self) -> tuple[float, Node] | None:
        """The leaf of least worth among those in order, and its worth; None if there is none among them."""
        heap = self._heap
        while heap:
            price, _, run = heap[0]
            node = run.leaf()
            if node is not None:
                return price, node
            heapq.heappop(heap)
            run.queued = False
        return None

    def top(self) -> tuple[float, Node] | None:
        """The leaf of least worth, and its worth; prices anew where that is needed to find one."""
        found = self.peek()
        if found is None and not self._barren:
            self.price(self._now)
            found = self.peek()
            if found is None:
                self.price(self._now, everything=True)
                found = self.peek()
            self._barren = found is None
        return found

    def least(self, bytes_needed: int, skip: Run) -> float | None:
        """The worth of the last chunk that would have to leave for so many bytes; None where too few may leave."""
        top = self.top()
        if top is None or top[1].size >= bytes_needed:
            return None if top is None else top[0]
        leaving = list(self.plan(bytes_needed, (), skip))
        return leaving[-1][0] if sum(node.size for _, node in leaving) >= bytes_needed else None

    def plan(self, bytes_needed: int, protected: Container[str], skip: Run) -> Iterator[tuple[float, Node]]:
        """Leaves by worth, a parent once its last child was named; chunks of `skip` stay. Changes nothing."""
        spent: set[int] = set()
        kids: dict[int, int] = {}  # held children not yet named, of parents of named chunks
        at: dict[int, int] = {}  # index in a run of its last chunk not yet named
        pushed = self._pushed
        for heap in (self._heap[:], None):
            if heap is None:  # more than the candidates of the last pricing
                heap = self._all()
            while heap and bytes_needed > 0:
                price, _, run = heapq.heappop(heap)
                i = at.get(id(run), len(run.nodes) - 1)
                while i >= 0 and bytes_needed > 0:
                    node = run.nodes[i]
                    if node.run is run and node.held and id(node) not in spent:
                        if node.key in protected or kids.get(id(node), node.kids):
                            break
                        spent.add(id(node))
                        bytes_needed -= node.size
                        yield price, node
                        parent = node.parent
                        if parent is not None and parent.held:
                            left = kids[id(parent)] = kids.get(id(parent), parent.kids) - 1
                            up = parent.run
                            if not left and up is not None and up is not run and up is not skip:
                                pushed += 1
                                heapq.heappush(heap, (self._price_of(up), pushed, up))
                    i -= 1
                at[id(run)] = i
            if bytes_needed <= 0:
                return

    def _price_of(self, run: Run) -> float:
        return self._model.price(run.kind, self._now - run.last)

    def _all(self) -> list[tuple[float, int, Run]]:
        return sorted((self._price_of(run), run.slot - len(self._runs), run) for run in self._runs if run.held)
