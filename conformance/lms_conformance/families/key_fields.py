"""KEY, by field: keys that differ in one field of their layout alone, and keys that a digest takes for one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Final

from lms_conformance.chunks import Chunk
from lms_conformance.lookalikes import texts
from lms_conformance.programs import Op
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.violation import Violation, expect
from lms_conformance.ways import Ways

#: Fields of each layout, in order: a value, and others that differ from it in little.
Fields = tuple[tuple[str, str, tuple[str, ...]], ...]

_MODEL: Final = (
    "model",
    "org/Llama-3.1-8B",
    ("org/Llama-3.1-8C", "org/Llama-3.1-80B", "Org/Llama-3.1-8B", "org/Llama"),
)
_WORLD: Final = ("world size", "8", ("9", "80", "08", "1"))
_WORKER: Final = ("worker", "3", ("4", "13", "03", "0"))
_HASH: Final = (
    "hash", "00ff00ff00ff00ff",
    ("00ff00ff00ff00fe", "80ff00ff00ff00ff", "ff00ff00ff00ff", "00ff00ff00ff00ff0", "00ff00fe00ff00ff",
     "-ff00ff00ff00ff", "00FF00ff00ff00ff"),
)  # fmt: skip
_DTYPE: Final = ("dtype", "bfloat16", ("half", "float", "uint8", "fp8_e4m3fn", "float16"))
_TAGS: Final = (
    (
        "tag",
        "@user%anna-maria",
        ("@user%anna-marib", "@user%anna-mari", "@uses%anna-maria", "@user%", "@user%Anna-maria", ""),
    ),
    ("second tag", "@salt%s1", ("@salt%s2", "@salt%s11", "@group%s1", "")),
)

LAYOUTS: Final[dict[str, Fields]] = {
    "model@world@worker@hash@dtype@tags": (
        _MODEL, ("", "@", ()), _WORLD, ("", "@", ()), _WORKER, ("", "@", ()), _HASH, ("", "@", ()), _DTYPE, *_TAGS,
    ),
    "model@world@worker@hash@dtype@layer@tag": (
        _MODEL, ("", "@", ()), _WORLD, ("", "@", ()), _WORKER, ("", "@", ()), _HASH, ("", "@", ()), _DTYPE,
        ("layer", "@7", ("@8", "@70", "@07", "@0", "")), _TAGS[0],
    ),
    "format@model@world@worker@hash@tag": (
        ("format", "vllm", ("vllm2", "huggingface", "vlln")), ("", "@", ()), _MODEL, ("", "@", ()), _WORLD,
        ("", "@", ()), _WORKER, ("", "@", ()), _HASH, _TAGS[0],
    ),
    "namespace:rank/group/hash@salt": (
        ("namespace", "0a1b2c3d4e5f6071", ("0a1b2c3d4e5f6072", "1a1b2c3d4e5f6071", "0a1b2c3d4e5f607")),
        ("", ":", ()), ("rank", "tp1", ("tp0", "tp11", "pp1")), ("", "/", ()), ("group", "0", ("1", "00", "10")),
        ("", "/", ()), _HASH, ("salt", "@s", ("@t", "@ss", "@", "")),
    ),
}  # fmt: skip


def _spelled(fields: Fields) -> dict[str, str]:
    """The key of the first values, and each that differs from it in one field, by what differs."""
    base = "".join(value for _, value, _ in fields)
    found = {"nothing": base}
    for i, (name, _, others) in enumerate(fields):
        for other in others:
            text = "".join(other if j == i else value for j, (_, value, _) in enumerate(fields))
            found[f"{name}: {other!r}"] = text
    return found


@prop(
    "KEY-12",
    "Keys of any layout that differ in one field alone are put, read, asked for and removed beside each other.",
    since="1.1",
)
def _fields(trial: Trial) -> None:
    for layout, fields in LAYOUTS.items():
        spelled = list(_spelled(fields).values())
        _narrowed(trial, spelled, f"# keys of the layout {layout}")


def _narrowed(trial: Trial, spelled: list[str], comment: str) -> None:
    """Beside each other; where they do not stand that, the first two of them that do not."""
    trial.anew()
    try:
        with trial.quiet(comment):
            _beside(trial, spelled)
    except Violation:
        for pair in itertools.islice(itertools.combinations(spelled, 2), 120):
            trial.anew()
            _beside(trial, list(pair))
        raise


def _beside(trial: Trial, spelled: list[str]) -> None:
    subject = Ways(trial.open())
    backend = subject.subject
    limit = trial.caps.max_key_bytes
    for i, text in enumerate(t for t in spelled if limit is None or len(t.encode()) <= limit):
        chunk = Chunk(literal=b"%06d" % i * (1 + i % 3), kind=i % 8)
        backend.allows(partial(backend.put, text, chunk), f"put under the legal key {text!r}")
        subject.model[text] = chunk
    pool = tuple(subject.model)
    _all_right(subject, pool)
    if trial.caps.remove:
        chunks = dict(subject.model)
        for removed in _parted(pool):
            for text in removed:
                subject.remove(Op("remove", (text,)))
            found = backend.contains_many(pool)
            gone = [text for text, there in zip(pool, found, strict=True) if not there]
            expect(gone == removed, f"only {removed!r} to be gone when they are removed", gone)
            for text in removed:
                backend.put(text, chunks[text])
                subject.model[text] = chunks[text]
        subject.remove_many(Op("remove_many", pool[::2]))
        _all_right(subject, pool)


def _parted(pool: tuple[str, ...]) -> Iterator[list[str]]:
    """Parts of the pool, of which for each two keys one has the first alone, and another the second: by bits of places.

    As many parts as twice the digits of its length, where each key alone would be as many as keys, each of them asked
    for after each removal.
    """
    for bit in range(max(1, (len(pool) - 1).bit_length())):
        for side in (0, 1):
            if part := [text for i, text in enumerate(pool) if i >> bit & 1 == side]:
                yield part


def _all_right(subject: Ways, pool: tuple[str, ...]) -> None:
    for text in pool:
        subject.get(Op("get", (text,)))
    for kind in ("listed", "scan", "contains_many", "get_many"):
        subject.step(Op(kind, pool))
    subject.get_many_into(Op("get_many_into", pool, how=0))


def _lookalikes() -> Iterator[tuple[str, tuple[str, str]]]:
    for name, pairs in texts().items():
        for pair in pairs:
            yield name, pair


@prop(
    "KEY-13",
    "Keys that a short digest, a checksum or a sum takes for one are different keys.",
    since="1.1",
)
def _digests(trial: Trial) -> None:
    _narrowed(trial, [text for _, pair in _lookalikes() for text in pair], "# keys with equal digests, sums and CRCs")
    for layout in ("org/m@1@0@{}@half", "@".join(["{}"] * 2)):
        spelled = [layout.format(*[text] * 2) for _, pair in _lookalikes() for text in pair]
        _narrowed(trial, spelled, "# the same within a layout")
