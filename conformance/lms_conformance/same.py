"""One history over several devices: whatever codec, policy, capacity or order of tiers, their answers are equal.

A chunk may be missing where its device declares that it evicts, or was opened anew and is not persistent; no two
devices may answer different chunks. Batches are carried out as such on every other device, and one by one on the rest.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from lms_conformance.chunks import KINDS, Chunk, key, raw
from lms_conformance.harness import Harness
from lms_conformance.profiles import Profile, profile
from lms_conformance.programs import POOL, SIZES, Op
from lms_conformance.run import introduce
from lms_conformance.spec import features
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_tiers.errors import LmsTiersError
from lms_tiers.interface import Capabilities

_KINDS: Final = (
    "put", "put", "put", "get", "get", "contains", "remove", "list", "put_many", "get_many", "contains_prefix",
    "reopen",
)  # fmt: skip

#: Stands for "this device may have lost it".
_MISS: Final = None


def drawn(rng: random.Random, *, remove: bool) -> tuple[Op, ...]:
    """A history: puts and reads of few keys and lengths, devices opened anew, a look at everything in the end."""
    kinds = [kind for kind in _KINDS if remove or kind != "remove"]
    sizes, number = rng.sample(SIZES, 3), itertools.count(10 * rng.randrange(1000))
    history: list[Op] = []
    for _ in range(rng.randrange(4, 25)):
        kind = rng.choice(kinds)
        keys = tuple(rng.choice(POOL) for _ in range(rng.randrange(5) if kind.endswith(("many", "prefix")) else 1))
        made = tuple(Chunk(next(number), rng.choice(sizes), rng.randrange(len(KINDS))) for _ in keys)
        history.append(Op(kind, keys if kind not in ("list", "reopen") else (), made if "put" in kind else ()))
    return (*history, *(Op("get_many", POOL), Op("contains_prefix", POOL), Op("list")))


@dataclass(slots=True)
class Difference:
    """Two devices that answered otherwise.

    Attributes
    ----------
    history : tuple of Op
        The smallest that was found.
    at : int
        Number of the operation in it.
    answers : dict of str to str
        By device.
    """

    history: tuple[Op, ...]
    at: int
    answers: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{i:>3}{' ->' if i == self.at else '   '} {op}" for i, op in enumerate(self.history)]
        told = [f"    {name}: {answer}" for name, answer in self.answers.items()]
        return "\n".join([*lines, *told])


@dataclass(slots=True)
class Comparison:
    """What came of it.

    Attributes
    ----------
    devices : list of str
    histories, operations : int
        Those carried out, on all devices together.
    difference : Difference or None
    """

    devices: list[str]
    histories: int = 0
    operations: int = 0
    difference: Difference | None = None


@dataclass(slots=True)
class _Device:
    """One device in one history."""

    harness: Harness
    caps: Capabilities
    trial: Trial
    batches: bool
    subject: Subject = field(init=False)
    lenient: bool = field(init=False)

    def __post_init__(self) -> None:
        self.subject = self.trial.open()
        self.lenient = self.caps.evicts and self.harness.takes_capacity

    def reopen(self) -> None:
        """Close in an orderly way, and open again."""
        self.subject.close()
        self.subject = self.trial.reopen(self.subject)
        self.lenient |= not self.caps.persistent

    def answer(self, op: Op) -> Any:
        """What it says to one operation, as values that can be compared; an error of the taxonomy by its name."""
        try:
            return self._call(op)
        except LmsTiersError as error:
            return type(error).__name__

    def _call(self, op: Op) -> Any:
        backend, keys = self.subject.backend, [key(k) for k in op.keys]
        match op.kind:
            case "reopen":
                return self.reopen()
            case "put":
                return backend.put(op.chunks[0].message(keys[0]), op.chunks[0].data())
            case "put_many":
                items = [(c.message(k), c.data()) for k, c in zip(keys, op.chunks, strict=True)]
                if self.batches:
                    return backend.put_many(items)
                for message, data in items:
                    backend.put(message, data)
                return None
            case "remove":
                return backend.remove(keys[0])
            case "get":
                return [_of(backend.get(keys[0]))]
            case "get_many":
                return list(map(_of, backend.get_many(keys) if self.batches else map(backend.get, keys)))
            case "contains":
                return [backend.contains(keys[0]) or _MISS]
            case "contains_prefix":
                run = backend.contains_prefix(keys)
                return [True if i < run else _MISS for i in range(len(keys))]
            case _:
                return sorted(k.to_string() for k in backend.list_keys())


def _of(obj: Any) -> Any:
    return None if obj is None else (bytes(raw(obj)), str(obj.dtype), obj.fmt.name, tuple(obj.shape))


def compare(harnesses: Sequence[Harness], *, effort: str | Profile = "quick", seed: int = 20) -> Comparison:
    """Carry drawn histories out on every device, and compare answer by answer.

    Parameters
    ----------
    harnesses : sequence of Harness
        Two at least.
    effort : str or Profile
    seed : int
    """
    effort = profile(effort) if isinstance(effort, str) else effort
    known = [(harness, introduce(harness).capabilities) for harness in harnesses]
    found = Comparison([harness.name for harness, _ in known])
    remove, rng = all(caps.remove for _, caps in known), random.Random(seed)
    for _ in range(effort.examples):
        found.histories += 1
        found.difference = _run(known, drawn(rng, remove=remove), effort, found)
        if found.difference is not None:
            found.difference = _smallest(known, found.difference, effort, found)
            break
    return found


def _smallest(
    known: Sequence[tuple[Harness, Capabilities]], difference: Difference, effort: Profile, found: Comparison
) -> Difference:
    """The difference in as few operations as leaving one out after the other finds."""
    at = 0
    while at < len(difference.history):
        shorter = difference.history[:at] + difference.history[at + 1 :]
        again = _run(known, shorter, effort, found)
        if again is None:
            at += 1
        else:
            difference = again
    return difference


def _run(
    known: Sequence[tuple[Harness, Capabilities]], history: tuple[Op, ...], effort: Profile, found: Comparison
) -> Difference | None:
    with ExitStack() as stack:
        devices = []
        for i, (harness, caps) in enumerate(known):
            trial = Trial(harness, caps, features(caps, harness), effort, random.Random(0))
            stack.callback(trial.end)
            devices.append(_Device(harness, caps, trial, batches=i % 2 == 0))
        for at, op in enumerate(history):
            answers = [device.answer(op) for device in devices]
            found.operations += len(devices)
            if not _equal(answers, [device.lenient for device in devices], listing=op.kind == "list"):
                named = zip(found.devices, answers, strict=True)
                return Difference(
                    history[: at + 1], at, {f"{i}. {name}": _shown(a) for i, (name, a) in enumerate(named, 1)}
                )
    return None


def _equal(answers: Sequence[Any], lenient: Sequence[bool], *, listing: bool) -> bool:
    """Whether they are, but for chunks that a lenient one misses."""
    strict = [a for a, may in zip(answers, lenient, strict=True) if not may]
    if any(a != strict[0] for a in strict[1:]):
        return False
    if listing:
        return not strict or all(set(a) <= set(strict[0]) for a in answers)
    if not all(isinstance(a, list) for a in answers):
        return all(a == answers[0] for a in answers)
    for values in zip(*answers, strict=True):
        if not _agree(values, [v for v, may in zip(values, lenient, strict=True) if not may]):
            return False
    return True


def _agree(values: Sequence[Any], strict: Sequence[Any]) -> bool:
    there = [v for v in values if v is not _MISS]
    return all(v == there[0] for v in there) and (not strict or strict[0] is not _MISS or not there)


def _shown(answer: Any) -> str:
    if isinstance(answer, list):
        return ", ".join(_shown(one) for one in answer) or "nothing"
    if isinstance(answer, tuple):
        return f"{len(answer[0])} bytes {answer[0][:12]!r} {answer[1:]}"
    return "a miss" if answer is None else str(answer)
