"""OPT: every optional method is as strict as the main way: each effect and each field of its answer."""

from __future__ import annotations

from lms_conformance.chunks import KINDS, Chunk
from lms_conformance.programs import ASKS, CALM, FORGETS, POOL, READS, WRITES, Op, ways
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.ways import Ways

#: What is named behind an absent key, or twice, is forgotten, and nothing else, whatever it begins with.
ABSENT_FIRST = (
    Op("put_many", ("ab", "A"), (Chunk(3, 100), Chunk(4, 7))),
    Op("remove_many", ("a", "ab", "a", "ab")),
    Op("put", ("ab",), (Chunk(5, 30),)),
    Op("remove_many", ("a",)),
)

#: A key that is put with one dtype is read with that, whatever it was put with before.
EACH_DTYPE = tuple(
    op for kind in range(len(KINDS)) for op in (Op("put", ("a",), (Chunk(3, 48, kind),)), Op("get_tensor", ("a",)))
)


def _run(trial: Trial, program: tuple[Op, ...]) -> None:
    subject = Ways(trial.open())
    for op in program:
        subject.step(op)
    subject.finish(POOL)


@prop(
    "OPT-01",
    "Whichever way a chunk is read, every byte and field of it are those that get answers, and no byte beside.",
    since="1.1",
    given=lambda: ways("put", *READS, most=8),
    weight=0.5,
)
def _reads(trial: Trial, program: tuple[Op, ...]) -> None:
    _run(trial, (*EACH_DTYPE, *program))


@prop(
    "OPT-02",
    "Whichever way is asked what is held, and how much of it, the answer is that of contains and get.",
    since="1.1",
    given=lambda: ways("put", "put_many", *ASKS, most=8),
    weight=0.5,
)
def _asks(trial: Trial, program: tuple[Op, ...]) -> None:
    _run(trial, program)


@prop(
    "OPT-03",
    "Whichever way a chunk is written, it is stored as put stores it, and what was handed over is the caller's again.",
    since="1.1",
    given=lambda: ways(*WRITES, most=8),
    weight=0.5,
)
def _writes(trial: Trial, program: tuple[Op, ...]) -> None:
    _run(trial, program)


@prop(
    "OPT-04",
    "remove_many forgets just what it names: absent keys, keys named twice and no keys at all harm no other chunk.",
    since="1.1",
    needs=["remove"],
    given=lambda: ways("put", "put_many", "remove_many", "remove_many", most=8),
    weight=0.5,
)
def _forgets(trial: Trial, program: tuple[Op, ...]) -> None:
    _run(trial, (*ABSENT_FIRST, *program))


@prop(
    "OPT-05",
    "touch, flush, save_state and load_state change no chunk, whatever they name.",
    since="1.1",
    given=lambda: ways("put", *CALM, "get", "scan", most=8),
    weight=0.5,
)
def _calm(trial: Trial, program: tuple[Op, ...]) -> None:
    _run(trial, program)


@prop(
    "OPT-06",
    "Programs of all ways to write, read, ask and forget, mixed at random, answer as a dictionary would.",
    since="1.1",
    given=lambda: ways(*WRITES, *READS, *ASKS, *CALM, *FORGETS, *FORGETS, most=14),
)
def _mixed(trial: Trial, program: tuple[Op, ...]) -> None:
    _run(trial, tuple(op for op in program if trial.caps.remove or op.kind not in FORGETS))
