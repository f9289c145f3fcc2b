"""What the drive of every interface has: calls that are told, as lines of a program, and that raise into no engine."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar, cast

import numpy

from lms_conformance.record import Record
from lms_conformance.violation import Violation, violate

F = TypeVar("F", bound=Callable[..., Any])

#: What memory that nobody was asked to write holds.
CANARY: Final = 0xA5


def content(number: int, nbytes: int) -> bytes:
    """The bytes of the chunk of that number: no other's, nowhere alike, not to be compressed."""
    return numpy.random.default_rng(number).bytes(nbytes)


class Driven:
    """An adapter, called as its engine calls it.

    Attributes
    ----------
    path : pathlib.Path
        The adapter's place.
    record : Record or None
        Where calls are told; None outside of the kit.
    patience : float
        Seconds in which an answer has to come, and as much longer as the machine is busy.
    """

    patience: ClassVar[float] = 30.0

    path: Path = Path()
    record: Record | None = None
    var: str = "adapter"

    def close(self) -> None:
        """End the adapter as its engine does."""
        raise NotImplementedError


def told(call: F) -> F:
    """Of a drive's method: it is a line of the program, with its answer; what the adapter raises is a violation."""

    @functools.wraps(call)
    def telling(self: Driven, *given: Any, **named: Any) -> Any:
        if self.record is None:
            return call(self, *given, **named)
        arguments = ", ".join([*map(repr, given), *(f"{name}={value!r}" for name, value in named.items())])
        code = f"{self.var}.{call.__name__}({arguments})"
        line = self.record.record(code)
        try:
            answer = call(self, *given, **named)
        except Violation:
            raise
        except Exception as error:
            line.comment = f"raises {type(error).__name__}"
            violate(f"{code} to raise nothing into the engine", f"{type(error).__name__}: {error}")
        if answer is not None:
            line.comment = "".join(itertools.islice(repr(answer), 200))
        return answer

    return cast(F, telling)


def tries(least: int, met: Sequence[object], most: int = 40) -> Iterator[int]:
    """So many tries, and more while nothing was `met` that they are for: on a busy machine that may take some."""
    for number in range(max(least, most)):
        if number >= least and met:
            return
        yield number
