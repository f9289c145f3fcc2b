"""PER and OVR, by all ways: what the optional methods wrote outlives a restart, and no field of the metadata sticks."""

from __future__ import annotations

from dataclasses import replace

from lms_conformance.chunks import Chunk, key
from lms_conformance.programs import FORGETS, POOL, WRITES, Op, ways
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.violation import expect
from lms_conformance.ways import Ways
from lms_tiers.messages import ChunkMeta, MemoryFormat, namespace_of

_BASE = ("bfloat16", "KV_2LTD", (2, 4, 16, 8))

#: Metadata that differs from `_BASE` in one field.
VARIANTS: tuple[tuple[str | None, str, tuple[int, ...]], ...] = (
    ("float16", "KV_2LTD", (2, 4, 16, 8)),
    (None, "KV_2LTD", (2, 4, 16, 8)),
    ("bfloat16", "KV_T2D", (2, 4, 16, 8)),
    ("bfloat16", "UNDEFINED", (2, 4, 16, 8)),
    ("bfloat16", "KV_2LTD", (2, 4, 8, 16)),
    ("bfloat16", "KV_2LTD", (2, 4, 16, 9)),
    ("bfloat16", "KV_2LTD", (2, 4, 128)),
    ("bfloat16", "KV_2LTD", (8, 16, 8)),
    ("bfloat16", "KV_2LTD", ()),
    ("bfloat16", "KV_2LTD", (2, 4, 16, 0)),
    ("bfloat16", "KV_2LTD", (2 + (1 << 8), 4, 16, 8)),
    ("bfloat16", "KV_2LTD", (2, 4, 16 + (1 << 16), 8)),
    ("bfloat16", "KV_2LTD", (2, 4, 16, 8 + (1 << 31))),
)


@prop(
    "OVR-09",
    "An overwrite that differs in one field of its metadata alone carries it, whichever way is written or read.",
    since="1.1",
)
def _one_field(trial: Trial) -> None:
    for kind in ("put", "put_many", "put_from"):
        trial.anew()
        subject = Ways(trial.open())
        base = Chunk(3, 2048, meta=_BASE)
        subject.put(Op("put", ("b",), (base,)))
        for meta in VARIANTS:
            for chunk in (base, Chunk(3, 2048, meta=meta)):
                subject.step(Op(kind, ("a",), (chunk,)))
                subject.get(Op("get", ("a",)))
            for i, way in enumerate(("get_many", "get_into", "get_scattered", "get_many_into", "view", "scan")):
                subject.step(Op(way, ("a", "b"), how=3 * i))
        subject.still()


#: Digests of namespaces that differ in their last letter.
_ONE, _TWO = "0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdee"


@prop(
    "OVR-10",
    "The namespace that a chunk was put with comes back as it was, or not at all, and does not outlive an overwrite.",
    since="1.1",
)
def _namespaces(trial: Trial) -> None:
    backend = trial.open()
    plain = ChunkMeta(64, MemoryFormat.KV_2LTD, "bfloat16", (2, 4, 4))
    trial.record("# one key is put with one namespace, another, none, and the first again")
    for batch in (False, True):
        for i, namespace in enumerate((_ONE, _TWO, None, _ONE, None)):
            meta = replace(plain, namespace=namespace)
            data = Chunk(10 + i, 64).data()
            if batch:
                backend.backend.put_many([(meta.message(key("a")), data)])
            else:
                backend.backend.put(meta.message(key("a")), data)
            trial.ran(1)
            obj = backend.expect_chunk("a", Chunk(10 + i, 64, meta=("bfloat16", "KV_2LTD", (2, 4, 4))))
            with backend.view("a") as view:
                told = [
                    namespace_of(obj),
                    view and view.meta.namespace,
                    *(info.meta.namespace for info in backend.scan()),
                ]
            expect(all(found in (namespace, None) for found in told), f"the namespace {namespace}, or none", told)


#: How each program ends: by every way to write and to forget, of which a drawn one may have none.
LAST = (
    Op("put_many", ("a", "A", "m@1@0@1f@bfloat16"), (Chunk(4, 300, 1), Chunk(5, 0, 2), Chunk(6, 5000, 3))),
    Op("put_from", ("a", "ab"), (Chunk(7, 256, 4), Chunk(8, 1, 5))),
    Op("remove_many", ("A", "ab", "A")),
    Op("put_tensor", ("ab",), (Chunk(9),), 1),
)


@prop(
    "PER-11",
    "What any way wrote or forgot is so after reopening, in programs of all ways with restarts between them.",
    since="1.1",
    needs=["persistent"],
    given=lambda: ways(*WRITES, *FORGETS, "scan", "get_many_into", "stats", most=8),
    weight=0.3,
)
def _restarts(trial: Trial, program: tuple[Op, ...]) -> None:
    subject = Ways(trial.open())
    for op in program:
        if op.how % 4 == 0 or op is program[-1]:
            subject = _reopened(trial, subject, flush=op.how % 8 == 0)
        if trial.caps.remove or op.kind not in FORGETS:
            subject.step(op)
    for op in LAST:
        if trial.caps.remove or op.kind not in FORGETS:
            subject.step(op)
    _reopened(trial, subject, flush=False).finish(POOL)


def _reopened(trial: Trial, subject: Ways, *, flush: bool) -> Ways:
    if flush:
        subject.subject.flush()
    subject.subject.close()
    again = Ways(trial.reopen(subject.subject))
    again.model = dict(subject.model)
    return again
