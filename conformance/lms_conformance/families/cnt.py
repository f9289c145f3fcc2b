"""CNT: `contains`, `contains_prefix` and `contains_many` say what `get` would."""

from __future__ import annotations

from hypothesis import strategies as st

from lms_conformance.chunks import Chunk
from lms_conformance.programs import POOL, Op, pool_keys, programs, step
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.violation import expect


@prop(
    "CNT-01",
    "contains answers True exactly where get answers a chunk.",
    given=lambda: programs("put", "get", "contains", most=8),
)
def _agrees(trial: Trial, program: tuple[Op, ...]) -> None:
    backend = trial.open()
    model: dict[str, Chunk] = {}
    for op in program:
        step(backend, model, op)
        for k in POOL:
            found, obj = backend.contains(k), backend.get(k)
            expect(found is (obj is not None), f"contains({k!r}) to agree with get ({obj is not None})", found)


@prop("CNT-02", "contains agrees with get after a remove, too.", needs=["remove"])
def _agrees_after_remove(trial: Trial) -> None:
    backend = trial.open()
    for size in (0, 50, 5000):
        backend.put("a", Chunk(3, size))
        expect(backend.contains("a") is True, "True after a put", False, "assert backend.contains(key('a'))")
        backend.remove("a")
        expect(backend.contains("a") is False, "False after a remove", True, "assert not backend.contains(key('a'))")
        expect(backend.get("a") is None, "None after a remove", "a chunk", "assert backend.get(key('a')) is None")


@prop("CNT-03", "Asking changes nothing: what was asked for is neither listed nor stored.")
def _asking(trial: Trial) -> None:
    backend = trial.open()
    backend.put("a", Chunk(3, 50))
    for k in ("b", "c", "b"):
        for answer in (backend.contains(k), backend.get(k) is not None, backend.contains_prefix([k]) == 1):
            expect(answer is False, f"{k!r} to be absent", answer)
    backend.expect_keys(["a"])


def _presences() -> st.SearchStrategy[list[bool]]:
    return st.lists(st.booleans(), min_size=1, max_size=12)


@prop(
    "CNT-04",
    "contains_prefix counts the leading run that is present, up to the first gap.",
    given=lambda: _presences() | st.builds(lambda a, b: [*a[:5], False, True, *b[:5]], _presences(), _presences()),
    marks=["a gap before keys that are held"],
)
def _leading(trial: Trial, present: list[bool]) -> None:
    backend = trial.open()
    chain = [f"m@1@0@{i:x}@half" for i in range(len(present))]
    for k, there in zip(chain, present, strict=True):
        if there:
            backend.put(k, Chunk(3, 20))
    want = (*present, False).index(False)
    if any(present[want:]):
        trial.mark("a gap before keys that are held")
    found = backend.contains_prefix(chain)
    expect(found == want, f"{want}, the length of the leading run", found)


@prop("CNT-05", "contains_prefix of no keys is 0; a key named twice counts twice.")
def _degenerate(trial: Trial) -> None:
    backend = trial.open()
    expect(backend.contains_prefix([]) == 0, "0 for no keys", "another number")
    backend.put("a", Chunk(3, 20))
    for keys, want in ((["a", "a"], 2), (["a", "b", "a"], 1), (["b", "a"], 0), (["a"], 1)):
        found = backend.contains_prefix(keys)
        expect(found == want, f"{want} for {keys!r}", found)


@prop(
    "CNT-06",
    "contains_many answers each key in order as contains would, absent and repeated ones too.",
    since="1.1",
    given=lambda: st.tuples(st.sets(pool_keys(), max_size=3), st.lists(pool_keys(), max_size=8)),
    marks=["held and absent keys in one batch"],
)
def _each(trial: Trial, case: tuple[set[str], list[str]]) -> None:
    held, asked = case
    backend = trial.open()
    for k in sorted(held):
        backend.put(k, Chunk(3, 20))
    for keys in (asked, list(POOL)):
        want = [k in held for k in keys]
        if True in want and False in want:
            trial.mark("held and absent keys in one batch")
        found = backend.contains_many(keys)
        expect(found == want, f"{want} for {keys!r}", found)
