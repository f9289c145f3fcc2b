"""RMV: removing, where declared; a typed refusal where not."""

from __future__ import annotations

from lms_conformance.chunks import KIB, Chunk
from lms_conformance.programs import POOL, Op, programs, run
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_tiers.errors import UnsupportedError


@prop("RMV-01", "A removed key is gone: not answered, not contained, not listed.", needs=["remove"])
def _gone(trial: Trial) -> None:
    backend = trial.open()
    for size in (0, 100, 300 * KIB):
        backend.put("a", Chunk(3, size))
        backend.put("b", Chunk(4, size))
        backend.remove("a")
        backend.expect_absent("a", "it was removed")
        backend.expect_keys(["b"])


@prop("RMV-02", "Removing an absent key is no error, twice neither.", needs=["remove"])
def _absent(trial: Trial) -> None:
    backend = trial.open()
    backend.allows(lambda: backend.remove("a"), "remove of a key never put")
    backend.put("a", Chunk(3, 100))
    backend.remove("a")
    backend.allows(lambda: backend.remove("a"), "a second remove")
    backend.expect_absent("a")


@prop("RMV-03", "Removing a key leaves the others alone, those that begin like it, too.", needs=["remove"])
def _neighbours(trial: Trial) -> None:
    backend = trial.open()
    texts = ["k", "kk", "kkk", "K", "k/", "j", "m@1@0@1@half", "m@1@0@1@half@1"]
    for victim in ("k", "m@1@0@1@half", "kk"):
        model = {text: Chunk(10 + i, 30 + i) for i, text in enumerate(texts)}
        for text, chunk in model.items():
            backend.put(text, chunk)
        backend.remove(victim)
        del model[victim]
        backend.expect_model(model, [victim])


@prop("RMV-04", "A key put again after its removal holds the new chunk, and only that.", needs=["remove"])
def _again(trial: Trial) -> None:
    backend = trial.open()
    for old, new in ((Chunk(3, 100), Chunk(4, 100)), (Chunk(3, 5000), Chunk(4, 7)), (Chunk(3, 7), Chunk(4, 5000, 1))):
        backend.put("a", old)
        backend.remove("a")
        backend.put("a", new)
        backend.expect_model({"a": new})
        backend.remove("a")
        backend.expect_model({}, ["a"])


@prop(
    "RMV-05",
    "Any sequence of puts, reads and removes over a few keys answers as a dictionary would.",
    needs=["remove"],
    given=lambda: programs("put", "put", "get", "contains", "remove", "list"),
    weight=2,
    marks=["overwritten", "removed"],
)
def _drawn(trial: Trial, program: tuple[Op, ...]) -> None:
    backend = trial.open()
    model: dict[str, Chunk] = {}
    run(backend, model, program)
    backend.expect_model(model, POOL)
    for k in list(model)[:1]:  # whatever was drawn: what was read is overwritten, removed, and put again
        for op in (Op("put", (k,), (Chunk(77, 33, 2),)), Op("remove", (k,)), Op("put", (k,), (Chunk(78, 34),))):
            run(backend, model, [op])
            backend.expect_model(model, POOL)


@prop("RMV-06", "A removed chunk never comes back, whatever is put and read afterwards.", needs=["remove"])
def _no_return(trial: Trial) -> None:
    backend = trial.open()
    backend.put("a", Chunk(3, 100))
    backend.expect_chunk("a", Chunk(3, 100))
    backend.remove("a")
    with trial.quiet(
        "for i in range(50):\n    backend.put(Chunk(i, 60).message(key(f'k{i % 7}')), Chunk(i, 60).data())"
    ):
        for i in range(50):
            backend.put(f"k{i % 7}", Chunk(i, 60))
            backend.expect_absent("a", "it was removed")
            if i % 10 == 9:
                backend.flush()
    backend.expect_absent("a", "it was removed")


@prop("RMV-07", "Where `remove` is not declared it raises UnsupportedError, and the chunk stays.", needs=["!remove"])
def _undeclared(trial: Trial) -> None:
    backend = trial.open()
    backend.put("a", Chunk(3, 100))
    backend.rejects(UnsupportedError, lambda: backend.remove("a"), "remove without the capability")
    backend.rejects(UnsupportedError, lambda: backend.remove("b"), "remove without the capability")
    backend.expect_model({"a": Chunk(3, 100)})
