"""OPT, where the answer is an error: writes that are refused, and what comes after close."""

from __future__ import annotations

from functools import partial
from typing import Any

from lms_conformance.chunks import Chunk, key
from lms_conformance.families.bat_refused import too_large
from lms_conformance.families.opt_edges import naming
from lms_conformance.programs import Op
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate
from lms_conformance.ways import Ways
from lms_conformance.zoo.memory import MemoryReference
from lms_tiers.errors import BackendClosedError, InvalidChunkError, ValueTooLargeError


@prop(
    "OPT-11",
    "An optional write that is refused leaves everything as it was: the old chunk, its metadata, what is listed.",
    since="1.1",
)
def _refused(trial: Trial) -> None:
    import torch

    subject = Ways(trial.open())
    backend = subject.subject
    for k, chunk in {"a": Chunk(3, 100, 1), "b": Chunk(4, 0)}.items():
        subject.put(Op("put", (k,), (chunk,)))
    source = MemoryReference()
    source.put(Chunk(9, 70, 3).message(key("a")), Chunk(9, 70, 3).data())
    device = getattr(backend.backend, "device", "cpu")
    wrong = Chunk(9, 70, 3).message(key("a"))
    wrong.length = 71
    unknown: Any = Chunk(9, 70, 3).message(key("a"))
    unknown.fmt = 99
    for name, message in {"a wrong length": wrong, "an unknown format": unknown}.items():
        for what, call in {
            "put_tensor": lambda m: backend.backend.put_tensor(m, torch.zeros(70, dtype=torch.uint8, device=device)),
            "put_many": lambda m: backend.backend.put_many([(m, Chunk(9, 70).data())]),
        }.items():
            trial.record(f"# {what} with metadata of {name}")
            backend.rejects(InvalidChunkError, partial(call, message), f"{what} with metadata of {name}")
            subject.finish(["a", "b", "c"])
    size = too_large(trial)
    if size is not None:
        large = Chunk(9, size, meta=("uint8", "KV_2LTD", (size,))).message(key("a"))
        trial.record(f"# put_tensor of {size} bytes, more than the declared limit")
        backend.rejects(
            ValueTooLargeError,
            lambda: backend.backend.put_tensor(large, torch.zeros(size, dtype=torch.uint8, device=device)),
            "put_tensor of more than the declared limit",
        )
        subject.finish(["a", "b", "c"])
    held = backend.backend.put_from([Chunk(9, 70, 2).message(key("a")), Chunk(9, 70, 3).message(key("c"))], source)
    trial.record("# put_from of a chunk that the source holds with other metadata, and of one that it has not")
    expect(held == [False, False], "put_from to answer [False, False]", held)
    subject.finish(["a", "b", "c"])


@prop("OPT-12", "After close every optional method raises BackendClosedError, and does nothing.", since="1.1")
def _after_close(trial: Trial) -> None:
    import torch

    backend = trial.open()
    backend.put("a", Chunk(3, 10))
    source = MemoryReference()
    source.put(Chunk(3, 10).message(key("a")), Chunk(3, 10).data())
    device = getattr(backend.backend, "device", "cpu")
    backend.close()
    calls = naming(backend, key("a"))
    calls["put_from"] = lambda: backend.backend.put_from([Chunk(3, 10).message(key("a"))], source)
    calls["put_tensor"] = lambda: backend.backend.put_tensor(
        Chunk(3, 10).message(key("a")), torch.zeros(10, dtype=torch.uint8, device=device)
    )
    # Nothing that is stored is asked for or changed by these: they may know by themselves, or do nothing.
    calls.pop("stored_bytes")
    calls["save_state"] = lambda: backend.backend.save_state(b"late")
    for name, call in calls.items():
        trial.record(f"# {name} after close")
        if name in ("touch", "save_state"):
            try:
                call()
            except BackendClosedError:
                continue
            except Exception as error:
                violate(
                    f"{name} after close to raise BackendClosedError, or nothing", f"{type(error).__name__}: {error}"
                )
            continue
        backend.rejects(BackendClosedError, call, f"{name} after close")
    source.close()
