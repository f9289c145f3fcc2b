"""The ways to read, each held against a model: every field and every byte, and nothing beside them.

What answers are compared with is the model of `Reading.model`; writing and asking are in `lms_conformance.ways`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lms_conformance.buffers import FILL, canvases
from lms_conformance.chunks import Chunk, DuckKey, difference, key
from lms_conformance.programs import Op
from lms_conformance.subject import Subject, key_code
from lms_conformance.violation import expect
from lms_tiers.messages import ChunkMeta, MemoryFormat, torch_dtype


def meta_of(chunk: Chunk) -> ChunkMeta:
    """What must be told of it."""
    dtype, fmt, shape = chunk.described
    return ChunkMeta(len(chunk), fmt, dtype, shape)


def expect_meta(found: ChunkMeta | None, chunk: Chunk | None, what: str) -> None:
    """`found` is the chunk's metadata in every field; None where there is no chunk."""
    want = None if chunk is None else meta_of(chunk)
    got = None if found is None else ChunkMeta(found.length, found.fmt, found.dtype, tuple(found.shape))
    expect(got == want, f"{what} to answer {want}", found)


def spelled(ks: Sequence[str], how: int) -> list[Any]:
    """The keys, each of this project's class or of another's, as the bits of `how` say."""
    return [DuckKey(k) if how >> i & 1 else key(k) for i, k in enumerate(ks)]


class Reading:
    """A subject and the model of what it holds; each method makes one call and checks all that it answers.

    Attributes
    ----------
    model : dict of str to Chunk
    hand : list
        What was answered last: by which way, the answer, and the chunk that it has to stay.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.backend = subject.backend
        self.model: dict[str, Chunk] = {}
        self.hand: list[tuple[str, Any, Chunk]] = []

    def batch(self, name: str, op: Op, call: Callable[[list[Any]], Any]) -> Any:
        """`call` with the keys in a list, which stays as it is."""
        given = spelled(op.keys, op.how)
        before = list(given)
        answer = self.subject.do(f"{name}([{', '.join(map(key_code, before))}])", lambda: call(given))
        kept = len(given) == len(before) and all(a is b for a, b in zip(given, before, strict=True))
        expect(kept, f"{name} to leave the caller's list as it was", given)
        return answer

    def _keep(self, what: str, obj: Any, chunk: Chunk) -> None:
        self.hand = [*self.hand[-5:], (what, obj, chunk)]

    def get(self, op: Op) -> None:
        """`get`."""
        k = op.keys[0]
        if k in self.model:
            self._keep("get", self.subject.expect_chunk(k, self.model[k]), self.model[k])
        else:
            self.subject.expect_absent(k)

    def get_many(self, op: Op) -> None:
        """`get_many`."""
        found = self.batch("get_many", op, lambda given: self.backend.get_many(given))
        expect(isinstance(found, list) and len(found) == len(op.keys), f"a list of {len(op.keys)}", found)
        for i, (k, obj) in enumerate(zip(op.keys, found, strict=True)):
            if k not in self.model:
                expect(obj is None, f"item {i} of get_many ({k!r}) to be None", "a chunk")
                continue
            wrong = difference(self.model[k], obj)
            expect(wrong is None, f"item {i} of get_many ({k!r}) to be {self.model[k]!r}", wrong)
            self._keep("get_many", obj, self.model[k])

    def get_into(self, op: Op) -> None:
        """`get_into` each key, into buffers of many kinds."""
        for i, k in enumerate(op.keys):
            chunk = self.model.get(k)
            canvas = canvases(64 if chunk is None else len(chunk), op.how + i, whole=True)
            spelling = spelled([k], op.how >> i)[0]
            code = f"get_into({key_code(spelling if op.how >> i & 1 else k)}, bytearray({canvas.room}))"
            found = self.subject.do(code, partial(self.backend.get_into, spelling, canvas.buffers[0]))
            expect_meta(found, chunk, f"get_into of {k!r}")
            canvas.expect(_bytes(chunk), f"get_into of {k!r}")

    def get_scattered(self, op: Op) -> None:
        """`get_scattered` each key; where a bit says so, it is told what to expect, rightly or not."""
        for i, k in enumerate(op.keys):
            chunk, how = self.model.get(k), op.how + i
            canvas = canvases(64 if chunk is None else len(chunk), how)
            expected, fits = self._expected(chunk, how)
            code = f"get_scattered({key_code(k)}, {canvas.code}, expected={expected})"
            told: dict[str, Any] = {} if expected is None else {"expected": expected}
            found = self.subject.do(code, partial(self.backend.get_scattered, key(k), canvas.buffers, **told))
            expect_meta(found, chunk if fits else None, f"get_scattered of {k!r}, expected {expected},")
            canvas.expect(_bytes(chunk if fits else None), f"get_scattered of {k!r}")

    @staticmethod
    def _expected(chunk: Chunk | None, how: int) -> tuple[ChunkMeta | None, bool]:
        """What to say is expected, and whether the chunk is that."""
        if chunk is None or how % 3 == 0:
            return (None if how % 2 else ChunkMeta(64, MemoryFormat.BINARY, None, ())) if chunk is None else None, True
        meta = meta_of(chunk)
        if how % 3 == 1:
            return meta, True
        others = (
            ChunkMeta(meta.length, MemoryFormat.KV_MLA_FMT, "int16", meta.shape),
            ChunkMeta(meta.length, meta.fmt, meta.dtype, (*meta.shape, 1)),
            ChunkMeta(meta.length + 1, meta.fmt, meta.dtype, meta.shape),
        )
        return others[how // 3 % 3], False

    def get_many_into(self, op: Op) -> None:
        """`get_many_into`: each into buffers of its own, some too small, some not what is expected."""
        plans, requests, expected = [], [], []
        for i, k in enumerate(op.keys):
            chunk, how = self.model.get(k), op.how + 2 * i
            small = chunk is not None and len(chunk) > 1 and how % 5 == 4
            room = 64 if chunk is None else len(chunk) - 1 if small else len(chunk)
            canvas = canvases(room, 0 if small else how)
            wanted, fits = self._expected(chunk, how // 2)
            plans.append((k, chunk if fits and not small else None, canvas))
            requests.append((key(k), canvas.buffers))
            expected.append(wanted)
        spoiled: set[int] = set()
        told_it: dict[str, Any] = {"expected": expected, "spoiled": spoiled} if any(expected) else {}
        listed = ", ".join(f"({key_code(k)}, {canvas.code})" for k, _, canvas in plans)
        found = self.subject.do(
            f"get_many_into([{listed}]{f', expected={expected!r}' if told_it else ''})",
            lambda: self.backend.get_many_into(iter(requests) if op.how & 1 else requests, **told_it),
        )
        expect(isinstance(found, list) and len(found) == len(plans), f"a list of {len(plans)} answers", found)
        for i, (k, chunk, canvas) in enumerate(plans):
            expect_meta(found[i], chunk, f"item {i} of get_many_into ({k!r})")
            if chunk is not None:
                expect(i not in spoiled, f"item {i} of get_many_into, which was answered, not to be spoiled", spoiled)
            canvas.expect(_bytes(chunk), f"item {i} of get_many_into ({k!r})")

    def view(self, op: Op) -> None:
        """`view` each key."""
        for i, k in enumerate(op.keys):
            chunk = self.model.get(k)
            with self.subject.view(spelled([k], op.how >> i)[0]) as view:
                expect_meta(None if view is None else view.meta, chunk, f"view of {k!r}")
                if view is not None and chunk is not None:
                    expect(_joined(view.buffers) == chunk.bytes(), f"view of {k!r} to lend {chunk!r}", "other bytes")

    def get_tensor(self, op: Op) -> None:
        """`get_tensor` of each key whose bytes its dtype can hold."""
        import torch

        for i, k in enumerate(op.keys):
            chunk = self.model.get(k)
            dtype = None if chunk is None else torch_dtype(chunk.described[0]) or torch.uint8
            if chunk is not None and dtype is not None and len(chunk) % dtype.itemsize:
                continue
            device = getattr(self.backend, "device", "cpu")
            out = None
            if op.how >> i & 1:
                out = torch.full((7 + (64 if chunk is None else len(chunk)),), FILL, dtype=torch.uint8, device=device)
            found = self.subject.get_tensor(k, out)
            if chunk is None or found is None:
                expect(found is None and chunk is None, f"get_tensor to answer {chunk!r}", found)
                expect(out is None or bool((out == FILL).all()), "`out` of an absent key untouched", "written to")
                continue
            self._tensor_is(k, found, out, chunk)

    def _tensor_is(self, k: str, found: Any, out: Any, chunk: Chunk) -> None:
        dtype, _, shape = chunk.described
        if out is not None:
            expect(found is out, "get_tensor to answer `out` itself", type(found).__name__)
            rest = flat(out[len(chunk) :])
            expect(rest == bytes([FILL]) * 7, "what `out` has more than the chunk untouched", rest)
            expect(flat(out[: len(chunk)]) == chunk.bytes(), f"`out` to hold {chunk!r}", "other bytes")
            return
        kind = torch_dtype(dtype)
        if kind is None or found.numel() == 0:
            fits = flat(found) == chunk.bytes()
        else:
            numbers = len(chunk) // kind.itemsize
            fits = found.dtype == kind and tuple(found.shape) in (shape, (numbers,)) and flat(found) == chunk.bytes()
        expect(fits, f"get_tensor of {k!r} to answer {chunk!r}", f"{found.dtype} {tuple(found.shape)}")
        self._keep("get_tensor", found, chunk)


def _bytes(chunk: Chunk | None) -> bytes:
    return b"" if chunk is None else chunk.bytes()


def _joined(buffers: Sequence[memoryview]) -> bytes:
    return b"".join(bytes(memoryview(b).cast("B")) for b in buffers if memoryview(b).nbytes)


def flat(tensor: Any) -> bytes:
    """The bytes of a tensor."""
    import torch

    if not tensor.numel():
        return b""
    return bytes(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
