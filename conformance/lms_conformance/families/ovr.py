"""OVR: an overwrite replaces a chunk whole; nothing of the old one shows."""

from __future__ import annotations

from lms_conformance.chunks import KIB, Chunk
from lms_conformance.programs import POOL, Op, programs, run
from lms_conformance.spec import prop
from lms_conformance.trial import Trial


def _overwrite(trial: Trial, pairs: list[tuple[Chunk, Chunk]]) -> None:
    for old, new in pairs:
        trial.anew()
        backend = trial.open()
        backend.put("a", old)
        backend.put("b", old)
        backend.expect_chunk("a", old)
        backend.put("a", new)
        backend.expect_chunk("a", new, "the new chunk whole")
        backend.expect_chunk("b", old, "the neighbour that was not overwritten")


@prop("OVR-01", "A chunk overwritten by one of the same length is the new one.")
def _same_length(trial: Trial) -> None:
    _overwrite(trial, [(Chunk(3, n), Chunk(4, n)) for n in (1, 100, 4096, 300 * KIB)])


@prop("OVR-02", "A chunk overwritten by a shorter one has no old tail.")
def _shorter(trial: Trial) -> None:
    _overwrite(
        trial, [(Chunk(3, n), Chunk(4, m)) for n, m in ((2, 1), (4097, 100), (300 * KIB, 65 * KIB), (300 * KIB, 7))]
    )


@prop("OVR-03", "A chunk overwritten by a longer one is not cut to the old length.")
def _longer(trial: Trial) -> None:
    _overwrite(
        trial, [(Chunk(3, m), Chunk(4, n)) for n, m in ((2, 1), (4097, 100), (300 * KIB, 65 * KIB), (300 * KIB, 7))]
    )


@prop("OVR-04", "A chunk overwritten by an empty one is empty, and the other way round.")
def _empty(trial: Trial) -> None:
    _overwrite(
        trial, [(Chunk(3, 100), Chunk(4, 0)), (Chunk(3, 0), Chunk(4, 100)), (Chunk(3, 300 * KIB), Chunk(4, 0, 7))]
    )


@prop("OVR-05", "The same bytes put again with other metadata carry the new metadata.")
def _metadata_only(trial: Trial) -> None:
    _overwrite(trial, [(Chunk(3, n, a), Chunk(3, n, b)) for n in (0, 64, 5000) for a, b in ((0, 1), (1, 10), (2, 7))])


@prop(
    "OVR-06",
    "Any sequence of puts and reads over a few keys answers as a dictionary would.",
    given=lambda: programs("put", "put", "get", "contains"),
    weight=2,
    marks=["overwritten"],
)
def _drawn(trial: Trial, program: tuple[Op, ...]) -> None:
    backend = trial.open()
    model: dict[str, Chunk] = {}
    run(backend, model, program)
    backend.expect_model(model, POOL)
    for k in list(model)[:1]:  # whatever was drawn: what was read is overwritten, and read again
        run(backend, model, [Op("put", (k,), (Chunk(77, 33, 2),))])
        backend.expect_model(model, POOL)


@prop("OVR-07", "An overwritten key is listed once.")
def _listed_once(trial: Trial) -> None:
    backend = trial.open()
    for i in range(4):
        backend.put("a", Chunk(i, 10 * i))
        backend.put("b", Chunk(i, 50))
        backend.expect_keys(["a", "b"])


@prop("OVR-08", "The hundredth overwrite of a key is as good as the first.")
def _many(trial: Trial) -> None:
    backend = trial.open()
    backend.put("b", Chunk(1, 100))
    with trial.quiet(
        "for i in range(300):\n    backend.put(Chunk(i, 50 + i % 5).message(key('a')), Chunk(i, 50 + i % 5).data())"
    ):
        for i in range(300):
            backend.put("a", Chunk(i, 50 + i % 5))
            backend.expect_chunk("a", Chunk(i, 50 + i % 5), f"overwrite number {i}")
    backend.expect_model({"a": Chunk(299, 54), "b": Chunk(1, 100)})
