"""Drawn programs: sequences of operations over a small pool of keys, so that overwrites dominate, and their model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st

from lms_conformance.chunks import KINDS, Chunk
from lms_conformance.subject import Subject
from lms_conformance.violation import expect

#: Few keys, prefixes of one another and of another case: a program of ten operations overwrites several.
POOL: Final = ("a", "ab", "A", "m@1@0@1f@bfloat16")

#: Lengths at which storage formats change their mind.
SIZES: Final = (0, 1, 2, 7, 8, 100, 255, 256, 1000, 4095, 4096, 4097, 8192, 10_007)


@dataclass(frozen=True, slots=True)
class Op:
    """One operation; `chunks` and `keys` are parallel for batches, `how` chooses the forms of what is handed over."""

    kind: str
    keys: tuple[str, ...] = ()
    chunks: tuple[Chunk, ...] = ()
    how: int = 0


def chunks(max_size: int = 10_007) -> st.SearchStrategy[Chunk]:
    """Chunks of the sizes that matter."""
    sizes = st.sampled_from([s for s in SIZES if s <= max_size])
    return st.builds(Chunk, seed=st.integers(0, 9), size=sizes, kind=st.integers(0, len(KINDS) - 1))


def pool_keys() -> st.SearchStrategy[str]:
    """Keys of the pool."""
    return st.sampled_from(POOL)


def ops(*kinds: str) -> st.SearchStrategy[Op]:
    """One operation of the given kinds."""
    keys, one = pool_keys(), st.tuples(pool_keys())
    many = st.lists(keys, max_size=5).map(tuple)
    made: dict[str, st.SearchStrategy[Op]] = {
        "put": st.builds(lambda k, c: Op("put", k, (c,)), one, chunks()),
        "get": one.map(lambda k: Op("get", k)),
        "contains": one.map(lambda k: Op("contains", k)),
        "remove": one.map(lambda k: Op("remove", k)),
        "list": st.just(Op("list")),
        "put_many": st.lists(st.tuples(keys, chunks(4097)), max_size=5).map(
            lambda items: Op("put_many", tuple(k for k, _ in items), tuple(c for _, c in items))
        ),
        "get_many": many.map(lambda ks: Op("get_many", ks)),
        "contains_prefix": many.map(lambda ks: Op("contains_prefix", ks)),
    }
    return st.one_of([made[kind] for kind in kinds])


def programs(*kinds: str, most: int = 14) -> st.SearchStrategy[tuple[Op, ...]]:
    """Programs of at least one operation; every second is long, so that a few examples overwrite and remove as well."""
    any_length = st.lists(ops(*kinds), min_size=1, max_size=most)
    long = st.lists(ops(*kinds), min_size=most // 2 + 1, max_size=most)
    return st.one_of(any_length, long).map(tuple)


#: Ways to read, to ask, to write and to forget; of `lms_conformance.ways.Ways`.
READS: Final = ("get", "get_many", "get_into", "get_scattered", "get_many_into", "view", "get_tensor")
ASKS: Final = ("contains", "contains_many", "contains_prefix", "listed", "scan", "sizes", "stats")
WRITES: Final = ("put", "put_many", "put_tensor", "put_from")
FORGETS: Final = ("remove", "remove_many")
CALM: Final = ("touch", "flush", "state")


def ways(*kinds: str, most: int = 10) -> st.SearchStrategy[tuple[Op, ...]]:
    """Programs of `Ways` that begin with a put or two."""
    keys, how = st.sampled_from(POOL[:3]), st.integers(0, 63)
    several = st.lists(keys, max_size=5).map(tuple)
    some = st.lists(keys, min_size=1, max_size=3).map(tuple)
    items = st.lists(st.tuples(keys, chunks(4097)), max_size=4)

    def made(kind: str) -> st.SearchStrategy[Op]:
        if kind in ("put", "put_tensor"):
            return st.builds(lambda k, c, h: Op(kind, (k,), (c,), h), keys, chunks(), how)
        if kind in ("put_many", "put_from"):
            return st.builds(lambda i, h: Op(kind, tuple(k for k, _ in i), tuple(c for _, c in i), h), items, how)
        if kind in ("get", "contains", "remove"):
            return st.builds(lambda k, h: Op(kind, (k,), (), h), keys, how)
        named = some if kind in ("get_into", "get_scattered", "view", "get_tensor", "sizes") else several
        return st.builds(lambda ks, h: Op(kind, ks, (), h), named, how)

    first = st.lists(made("put"), min_size=1, max_size=3)
    then = st.lists(st.sampled_from(kinds).flatmap(made), min_size=most // 2, max_size=most)
    return st.builds(lambda a, b: (*a, *b), first, then)


def run(subject: Subject, model: dict[str, Chunk], program: Sequence[Op]) -> None:
    """Execute on the backend and on the model; each answer must be the model's."""
    for op in program:
        step(subject, model, op)


def step(subject: Subject, model: dict[str, Chunk], op: Op) -> None:
    """One operation on both."""
    match op.kind:
        case "put":
            if op.keys[0] in model:
                subject.trial.mark("overwritten")
            subject.put(op.keys[0], op.chunks[0])
            model[op.keys[0]] = op.chunks[0]
        case "get":
            _expect(subject, model, op.keys[0])
        case "contains":
            k = op.keys[0]
            found = subject.contains(k)
            expect(found is (k in model), f"contains({k!r}) to answer {k in model}", found)
        case "remove":
            subject.remove(op.keys[0])
            if op.keys[0] in model:
                subject.trial.mark("removed")
            model.pop(op.keys[0], None)
        case "list":
            subject.expect_keys(model)
        case "put_many":
            if len(set(op.keys)) < len(op.keys):
                subject.trial.mark("a key named twice")
            subject.put_many(list(zip(op.keys, op.chunks, strict=True)))
            model.update(zip(op.keys, op.chunks, strict=True))
        case "get_many":
            expect_many(subject, model, op.keys)
        case "contains_prefix":
            leading = next((i for i, k in enumerate(op.keys) if k not in model), len(op.keys))
            found_run: Any = subject.contains_prefix(op.keys)
            expect(found_run == leading, f"contains_prefix to count the leading run: {leading}", found_run)


def _expect(subject: Subject, model: dict[str, Chunk], k: str) -> None:
    if k in model:
        subject.expect_chunk(k, model[k])
    else:
        subject.expect_absent(k)


def expect_many(subject: Subject, model: dict[str, Chunk], ks: Sequence[str]) -> None:
    """`get_many` answers what `get` would, in order."""
    from lms_conformance.chunks import difference

    answers = subject.get_many(ks)
    code = f"assert len({subject.var}.get_many([key(k) for k in {tuple(ks)!r}])) == {len(ks)}"
    expect(
        isinstance(answers, list) and len(answers) == len(ks), f"get_many to answer a list of {len(ks)}",
        f"{type(answers).__name__} of {len(answers) if answers is not None else None}", code,
    )  # fmt: skip
    held = [k in model for k in ks]
    if True in held and False in held:
        subject.trial.mark("held and absent keys in one batch")
    for i, (k, obj) in enumerate(zip(ks, answers, strict=True)):
        if k in model:
            wrong = difference(model[k], obj)
            expect(wrong is None, f"item {i} of get_many ({k!r}) to be {model[k]!r}", wrong)
        else:
            expect(obj is None, f"item {i} of get_many ({k!r}) to be None", "a chunk")
