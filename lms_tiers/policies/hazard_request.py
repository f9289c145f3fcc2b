"""The request whose accesses the `hazard` policy is seeing: its chunks get their class when it is over."""

from __future__ import annotations

from lms_tiers.policies.base import AccessContext
from lms_tiers.policies.hazard_runs import Node, Run


class OpenRequest:
    """See the module.

    Attributes
    ----------
    nodes, before : list
        The chunks used so far, and the run each was in before (None: new).
    start : int
        Place of the first of them in its chain.
    length : int
        Chunks of the chain, as far as known.
    known : int
        Chunks of the chain before the first new one, −1 before that has come.
    refused : dict
        Chunks that were not admitted, by key.
    promised, promised_bytes : dict and int
        Sizes of the chunks admitted and not inserted yet: a store asks for several before it inserts the first.
    guess : tuple or None
        What newcomers of one run and use count are worth.
    """

    __slots__ = (
        "_ordered", "_places", "before", "guess", "id", "known", "length", "nodes", "promised", "promised_bytes",
        "refused", "start",
    )  # fmt: skip

    def __init__(self, request_id: int | str | None) -> None:
        self.id = request_id
        self.nodes: list[Node] = []
        self.before: list[Run | None] = []
        self.start = 0
        self.length = 0
        self.known = -1
        self.refused: dict[str | None, Node] = {}
        self.promised: dict[str, int] = {}
        self.promised_bytes = 0
        self.guess: tuple[Run | None, int, float] | None = None
        self._places: list[int] = []
        self._ordered = True

    def use(self, node: Node, run: Run | None, context: AccessContext) -> None:
        """A chunk, so far in `run`, is used."""
        nodes, places, position = self.nodes, self._places, context.position
        if context.length > self.length:
            self.length = context.length
        if not nodes:
            self.start = position if position > 0 else 0
        elif position < places[-1]:
            self._ordered = False  # the one before was refused while this one was still to be inserted
        if run is None and self.known < 0:
            self.known = self.start + len(nodes)
        nodes.append(node)
        places.append(position)
        self.before.append(run)

    def promise(self, key: str, size: int) -> bool:
        """A chunk was admitted and takes room from those asked for next."""
        if key not in self.promised:
            self.promised[key] = size
            self.promised_bytes += size
        return True

    def finish(self) -> None:
        """Put the chunks in the order of the chain; `known` and `length` are final."""
        if not self._ordered:
            order = sorted(range(len(self.nodes)), key=self._places.__getitem__)
            self.nodes = [self.nodes[i] for i in order]
            self.before = [self.before[i] for i in order]
            self.start = max(self._places[order[0]], 0)
            self.known = next((self.start + i for i, run in enumerate(self.before) if run is None), -1)
        end = self.start + len(self.nodes)
        self.length = max(self.length, end)
        if self.known < 0:
            self.known = end

    def boundary(self) -> tuple[Node, Run | None] | None:
        """The last chunk before the first new one, and its run before; None where the first one is new."""
        i = self.known - self.start - 1
        return (self.nodes[i], self.before[i]) if i >= 0 else None
