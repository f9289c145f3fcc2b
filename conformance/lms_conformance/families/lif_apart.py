"""LIF: backends of two places share neither books nor state."""

from __future__ import annotations

from typing import Any

from lms_conformance.chunks import Chunk, key
from lms_conformance.programs import Op
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.violation import expect
from lms_conformance.ways import Ways
from lms_tiers.errors import LmsTiersError
from lms_tiers.interface import LMSBackendInterface


def _books(b: LMSBackendInterface) -> dict[str, Any]:
    """What is of one place alone; bytes in use may be those of a server that places share."""
    stats = b.stats()
    told = {name: getattr(stats, name) for name in ("keys", "bytes_written", "bytes_read", "failures", "corrupt")}
    return {**told, "state": b.load_state(), "shrunk": b.shrunk()}


@prop(
    "LIF-13",
    "Backends of two places share neither counters nor state: what one does is not in the other's books.",
    since="1.1",
)
def _apart(trial: Trial) -> None:
    one, two = Ways(trial.open()), Ways(trial.open())
    two.put(Op("put", ("a",), (Chunk(4, 50, 2),)))
    two.backend.flush()  # what it does by itself for that put is in its books
    before = _books(two.backend)
    for kind in ("put", "put_many", "put_from", "get", "get_many", "view", "scan", "touch", "flush"):
        chunks = (Chunk(3, 5000, 1),) if kind.startswith("put") else ()
        one.step(Op(kind, ("a",), chunks))
    try:
        bad = Chunk(3, 10).message(key("b"))
        bad.length = 11
        one.backend.put(bad, Chunk(3, 10).data())
    except LmsTiersError:
        pass
    one.subject.save_state(b"of one place")
    if trial.caps.remove:
        one.remove(Op("remove", ("a",)))
        one.put(Op("put", ("c",), (Chunk(9, 9),)))
    now = _books(two.backend)
    expect(now == before, f"the books of the other place as they were: {before}", now)
    one.subject.close()
    expect(_books(two.backend) == before, f"the same after the first was closed: {before}", _books(two.backend))
    two.finish(["a", "b", "c"])
    three = trial.open()
    expect(three.backend.load_state() is None, "no state in a third place", "a state")
    expect(three.stats().keys in (None, 0), "no keys in a third place", three.stats().keys)
