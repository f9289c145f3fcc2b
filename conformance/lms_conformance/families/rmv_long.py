"""RMV, over a long life: thousands of puts, overwrites and removals over hundreds of keys."""

from __future__ import annotations

import time

from lms_conformance import gauges
from lms_conformance.chunks import Chunk, difference, key
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.violation import expect

#: Keys, calls at least and at most, and calls between two looks at everything.
_KEYS, _LEAST, _MOST, _LOOK = 300, 600, 6000, 600


@prop(
    "RMV-09",
    "After thousands of puts, overwrites and removals over hundreds of keys just what is held is told and answered.",
    since="1.1",
    needs=["remove"],
)
def _long_life(trial: Trial) -> None:
    backend, rng = trial.open(capacity=256 * 1024 * 1024), trial.rng
    b, model, began = backend.backend, dict[str, Chunk](), time.monotonic()
    texts = [f"m@1@0@{i * 0x9E3779B97F4A7C15 % 2**64:x}@half" for i in range(_KEYS)]
    trial.record(f"# puts, overwrites and removals of {_KEYS} keys, {_LEAST} and more, in a drawn order")
    for i in range(_MOST):
        if i >= _LEAST and i % _LOOK == 0 and time.monotonic() - began > trial.profile.example_seconds * gauges.busy():
            break
        k = rng.choice(texts)
        if rng.random() < 0.45:
            b.remove(key(k))
            model.pop(k, None)
        else:
            model[k] = Chunk(literal=i.to_bytes(4, "little") * (1 + i % 9), kind=i % 8)
            b.put(model[k].message(key(k)), model[k].data())
        trial.ran(1)
        if i % _LOOK == _LOOK - 1:
            with trial.quiet(f"# after {i + 1} calls"):
                backend.expect_keys(model)
                scanned = sorted(info.key.to_string() for info in b.scan())
                expect(scanned == sorted(model), f"scan to yield {len(model)} keys, each once", len(scanned))
                counted = b.stats().keys
                expect(counted in (None, len(model)), f"stats().keys to be {len(model)}", counted)
                told = b.contains_many([key(text) for text in texts])
                agrees = told == [text in model for text in texts]
                expect(agrees, f"contains_many to find {len(model)}, those that are listed", told.count(True))
                for text, obj in zip(texts, b.get_many([key(text) for text in texts]), strict=True):
                    wrong = difference(model[text], obj) if text in model else (obj and "a chunk")
                    expect(wrong is None, f"get_many of {text!r} to answer {model.get(text)!r}", wrong)
