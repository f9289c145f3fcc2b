"""All ways to use a backend, each held against a model: every effect, every field, every byte.

What is handed over comes in many forms (keys of another class, messages of another library, any buffer), and is spoiled
when the call has returned. Nothing here draws programs: see `lms_conformance.programs`.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lms_conformance.chunks import Chunk, difference, key, raw
from lms_conformance.programs import Op
from lms_conformance.reading import Reading, expect_meta, flat, meta_of
from lms_conformance.subject import Subject, key_code
from lms_conformance.violation import Violation, expect, violate
from lms_tiers.errors import BackendClosedError, LmsTiersError
from lms_tiers.interface import BackendStats
from lms_tiers.messages import MemoryFormat, torch_dtype

#: dtype and shape of what is put as a tensor.
TENSORS = (("uint8", (24,)), ("bfloat16", (2, 3, 4)), ("float32", (1, 7)), ("float16", (0,)), ("int64", (600,)))


def told(k: Any, chunk: Chunk, how: int) -> Any:
    """The put message: this project's own, made of metadata, or another library's."""
    message = chunk.message(key(k) if isinstance(k, str) else k)
    if how % 3 == 1:
        return meta_of(chunk).message(message.key)
    if how % 3 == 2:
        fields = {name: getattr(message, name) for name in ("command", "key", "length", "fmt", "dtype", "shape")}
        return types.SimpleNamespace(**fields, location=None)
    return message


def spoil(message: Any) -> None:
    """What a caller may do to its message once put has returned."""
    message.key, message.length, message.fmt = key("spoiled"), message.length + 3, MemoryFormat.HS_TD
    message.dtype, message.shape = None, (9, 9)


class Ways(Reading):
    """`Reading`, and the ways to write, to ask, and to change nothing."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._counted: BackendStats | None = None

    def step(self, op: Op) -> None:
        """Do one operation by its kind; it raises nothing, but where the backend is closed."""
        try:
            getattr(self, op.kind)(op)
        except BackendClosedError:
            raise
        except LmsTiersError as error:
            violate(f"{op.kind} of {op.keys!r} to raise nothing", f"{type(error).__name__}: {error}")
        except Violation as violation:
            if violation.kind != "raised":
                raise
            violate(f"{op.kind} of {op.keys!r} to raise nothing", violation.got)

    def finish(self, pool: Sequence[str]) -> None:
        """Everything is right by every way, and what was answered before is what it was."""
        pool = tuple(pool)
        for how, kind in enumerate(
            ("scan", "stats", "sizes", "contains_many", "get_many", "view", "get_into", "get_scattered", "get_tensor")
        ):
            self.step(Op(kind, pool, how=how))
        for how in (5, 6, 7):
            self.step(Op("get_into", pool, how=how))
            self.step(Op("get_scattered", pool, how=how + 3))
            self.step(Op("get_many_into", (*pool, *pool[:2]), how=how))
            self.step(Op("get_tensor", pool, how=how))
        for k in pool:
            self.step(Op("contains_prefix", (k,)))
            self.step(Op("contains_many", (k, k)))
        self.subject.expect_model(self.model, pool)
        self.still()

    def still(self) -> None:
        """What was answered before is what it was."""
        for what, obj, chunk in self.hand:
            now = raw(obj) if hasattr(obj, "data") and hasattr(obj, "fmt") else memoryview(flat(obj))
            expect(now == chunk.bytes(), f"what {what} answered to stay {chunk!r}", "other bytes now")

    # -- writing -----------------------------------------------------------------------------------------------------

    def _handed(self, k: Any, chunk: Chunk, how: int) -> tuple[Any, Any, str, Callable[[], None]]:
        message, owner = told(k, chunk, how), chunk.data()
        form = how // 3 % 4
        data: Any = (owner, bytes(owner), memoryview(owner), np.frombuffer(owner, np.uint8))[form]
        code = (f"{chunk!r}.data()", f"{chunk!r}.bytes()", f"memoryview({chunk!r}.data())")[min(form, 2)]

        def after() -> None:
            spoil(message)
            if form > 1:
                owner[:] = b"\xee" * len(owner)

        return message, data, f"{chunk!r}.message({key_code(k)}), {code}", after

    def put(self, op: Op) -> None:
        """`put`; what was handed over is spoiled afterwards."""
        k, chunk = op.keys[0], op.chunks[0]
        message, data, code, after = self._handed(k, chunk, op.how)
        answer = self.subject.do(f"put({code})", lambda: self.backend.put(message, data))
        expect(answer is None, "put to answer nothing", answer)
        after()
        self.model[k] = chunk

    def put_many(self, op: Op) -> None:
        """`put_many`; the list, its messages and its buffers are the caller's again."""
        made = [self._handed(k, c, op.how + i) for i, (k, c) in enumerate(zip(op.keys, op.chunks, strict=True))]
        batch = [(message, data) for message, data, _, _ in made]
        given = list(batch)
        code = ", ".join(f"({code})" for _, _, code, _ in made)
        self.subject.do(f"put_many([{code}])", lambda: self.backend.put_many(batch))
        kept = len(given) == len(batch) and all(a is b for a, b in zip(given, batch, strict=True))
        expect(kept, "put_many to leave the caller's list as it was", f"{len(batch)} items, of {len(given)}")
        batch.clear()
        for _, _, _, after in made:
            after()
        self.model.update(zip(op.keys, op.chunks, strict=True))

    def put_tensor(self, op: Op) -> None:
        """`put_tensor` of one of `TENSORS`."""
        import torch

        k = op.keys[0]
        dtype, shape = TENSORS[op.how % len(TENSORS)]
        kind = torch_dtype(dtype)
        assert kind is not None
        numbers = torch.Size(shape).numel()
        chunk = Chunk(op.chunks[0].seed, numbers * kind.itemsize, meta=(dtype, "KV_2LTD", shape))
        tensor = torch.frombuffer(chunk.data() or bytearray(8), dtype=kind)[:numbers].reshape(shape)
        tensor = tensor.to(getattr(self.backend, "device", "cpu"))
        message = chunk.message(key(k))
        self.subject.do(f"put_tensor({chunk!r}.message({key_code(k)}), tensor)",
                        lambda: self.backend.put_tensor(message, tensor))  # fmt: skip
        spoil(message)
        tensor.zero_()
        self.model[k] = chunk

    def put_from(self, op: Op) -> None:
        """`put_from` a reference; bits of `how` take its first chunk away, or make it another than was asked for."""
        from lms_conformance.zoo.memory import MemoryReference

        source = MemoryReference()
        asked = dict(zip(op.keys, op.chunks, strict=True))
        there = dict(asked)
        first = next(iter(asked), "")
        if op.how & 1:
            there.pop(first, None)
        elif op.how & 2 and asked:
            there[first] = Chunk(7, len(asked[first]), meta=("int8", "KV_T2D", (5, 5)))
        for k, chunk in there.items():
            source.put(chunk.message(key(k)), chunk.data())
        messages = [asked[k].message(key(k)) for k in asked]
        want = [there.get(k) == chunk for k, chunk in asked.items()]
        code = f"put_from([{', '.join(f'{c!r}.message({key_code(k)})' for k, c in asked.items())}], source)"
        held = self.subject.do(code, lambda: self.backend.put_from(messages, source))
        expect(held == want, f"put_from to answer {want}: which of them the source holds just so", held)
        expect(len(messages) == len(asked), "put_from to leave the caller's list as it was", len(messages))
        for k, chunk in there.items():
            wrong = difference(chunk, source.get(key(k)))
            expect(wrong is None, f"the source to hold {chunk!r} still", wrong)
        source.close()
        self.model.update({k: c for (k, c), copied in zip(asked.items(), want, strict=True) if copied})

    def remove(self, op: Op) -> None:
        """`remove`."""
        self.subject.remove(op.keys[0])
        self.model.pop(op.keys[0], None)

    def remove_many(self, op: Op) -> None:
        """`remove_many`."""
        self.batch("remove_many", op, lambda given: self.backend.remove_many(given))
        for k in op.keys:
            self.model.pop(k, None)

    # -- asking ------------------------------------------------------------------------------------------------------

    def contains(self, op: Op) -> None:
        """`contains`."""
        k = op.keys[0]
        found = self.subject.contains(k)
        expect(found is (k in self.model), f"contains({k!r}) to answer {k in self.model}", found)

    def contains_many(self, op: Op) -> None:
        """`contains_many`."""
        found = self.batch("contains_many", op, lambda given: self.backend.contains_many(given))
        want = [k in self.model for k in op.keys]
        expect(isinstance(found, list), "contains_many to answer a list", type(found).__name__)
        expect(all(type(f) is bool for f in found) and found == want, f"contains_many to answer {want}", found)

    def contains_prefix(self, op: Op) -> None:
        """`contains_prefix`."""
        found = self.batch("contains_prefix", op, lambda given: self.backend.contains_prefix(given))
        want = next((i for i, k in enumerate(op.keys) if k not in self.model), len(op.keys))
        expect(type(found) is int and found == want, f"contains_prefix to answer {want}", found)

    def listed(self, op: Op) -> None:
        """`list_keys`."""
        self.subject.expect_keys(self.model)

    def scan(self, op: Op) -> None:
        """`scan`: each chunk once, with its metadata and what it takes."""
        infos = self.subject.scan()
        found = sorted(info.key.to_string() for info in infos)
        expect(found == sorted(self.model), f"scan to yield {sorted(self.model)}, each once", found)
        for info in infos:
            k = info.key.to_string()
            expect_meta(info.meta, self.model[k], f"scan of {k!r}")
            most = self.backend.reserve_bytes(len(self.model[k]))
            expect(0 <= info.stored_bytes <= most, f"at most reserve_bytes, {most}, stored of {k!r}", info.stored_bytes)

    def sizes(self, op: Op) -> None:
        """`stored_bytes`, `reserve_bytes`, `usable_bytes` and `shrunk`."""
        for k in (*op.keys, *self.model):
            stored = self.subject.stored_bytes(k)
            if k not in self.model:
                expect(stored is None, f"stored_bytes of {k!r}, which is absent, to be None", stored)
                continue
            most = self.backend.reserve_bytes(len(self.model[k]))
            expect(stored is None or 0 <= stored <= most, f"stored_bytes of {k!r} from 0 to {most}", stored)
        usable = self.backend.usable_bytes
        expect(usable is None or usable > 0, "usable_bytes of None, or some", usable)
        for k, size in self.backend.shrunk().items():
            fits = k in self.model and 0 <= size <= self.backend.reserve_bytes(len(self.model[k]))
            expect(fits, "shrunk to tell of chunks that are held, and of no more than was reserved", (k, size))

    def stats(self, op: Op) -> None:
        """`stats`: what it knows is right, and what counts up never goes back."""
        now, before = self.subject.stats(), self._counted
        self._counted = now
        expect(now.keys in (None, len(self.model)), f"stats().keys to be {len(self.model)}, or None", now.keys)
        if now.bytes_used is not None and now.bytes_peak is not None:
            expect(0 <= now.bytes_used <= now.bytes_peak, "bytes_used between 0 and bytes_peak", now)
        expect(not now.corrupt and not now.failures, "no failures and nothing corrupt where nothing was", now)
        for name in ("bytes_written", "bytes_read", "bytes_peak"):
            was, is_ = (None if before is None else getattr(before, name)), getattr(now, name)
            expect(was is None or (is_ is not None and is_ >= was), f"stats().{name} not to go back from {was}", is_)

    # -- what changes nothing ----------------------------------------------------------------------------------------

    def touch(self, op: Op) -> None:
        """`touch`, of absent keys too."""
        self.batch("touch", op, lambda given: self.backend.touch(given))

    def flush(self, op: Op) -> None:
        """`flush`."""
        self.subject.flush()

    def state(self, op: Op) -> None:
        """`save_state` and `load_state`: no chunk is made of it, and the caller's bytes are not kept."""
        state = (b"", b"state", bytes(range(256)) * 20)[op.how % 3]
        self.subject.save_state(state)
        found = self.subject.load_state()
        expect(found is None or bytes(found) == state, f"load_state to answer {state[:20]!r}, or None", found)
