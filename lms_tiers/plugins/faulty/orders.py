"""Faults on order, and as one line of text that a failing program prints and a person repeats.

    get fail @3; put fail-after x2; * slow p=0.05 for=200ms

One fault each, apart by ``;``: the method (or ``*``), what happens to it, and when: ``@3`` at its third call, ``@3 x2``
twice from there on, ``p=0.05`` with that probability, ``for=200ms`` how long `slow` waits.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from lms_tiers.errors import ConfigError, StorageUnavailableError
from lms_tiers.sizes import parse_duration


class Fault(enum.Enum):
    """What can go wrong with one call.

    FAIL raises before the call, FAIL_AFTER after it was carried out. NOTHING answers None (or does nothing).
    SLOW waits, BLOCK waits until `release` or `close`. WRONG_LENGTH answers one byte less than there is.
    LIE turns the answer of `contains` round. CLOSE closes the inner backend first.
    """

    FAIL = "fail"
    FAIL_AFTER = "fail-after"
    NOTHING = "nothing"
    SLOW = "slow"
    BLOCK = "block"
    WRONG_LENGTH = "wrong-length"
    LIE = "lie"
    CLOSE = "close"


#: Seconds that SLOW waits where nothing else is said.
WAIT: Final = 0.01

_WORDS: Final = "|".join(fault.value for fault in sorted(Fault, key=lambda fault: -len(fault.value)))
_LINE: Final = re.compile(
    rf"(?P<operation>\*|[a-z_]+) (?P<fault>{_WORDS})(?: @(?P<at>[1-9]\d*))?(?: x(?P<times>[1-9]\d*))?"
    r"(?: p=(?P<probability>[01](?:\.\d+)?))?(?: for=(?P<wait>[\d.]+ ?[a-z]+))?"
)


@dataclass(slots=True)
class Order:
    """One fault: of which method, what, from its how manieth call on, how often (None: always), how likely."""

    operation: str
    fault: Fault
    at: int = 1
    times: int | None = None
    probability: float = 1.0
    seconds: float = WAIT
    error: Callable[[], BaseException] | None = None

    def fits(self, operation: str, call: int) -> bool:
        """Whether it is for the so manieth call of a method."""
        return self.operation in ("*", operation) and call >= self.at

    def __str__(self) -> str:
        text = f"{self.operation} {self.fault.value}"
        text += f" @{self.at}" if self.at > 1 or self.times == 1 else ""
        text += f" x{self.times}" if self.times is not None and self.times > 1 else ""
        text += f" p={self.probability:g}" if self.probability < 1 else ""
        return text + (f" for={self.seconds * 1000:g}ms" if self.seconds != WAIT else "")

    def raised(self) -> BaseException:
        """What FAIL and FAIL_AFTER raise."""
        return self.error() if self.error is not None else StorageUnavailableError("faulty", f"fault injected: {self}")


def parse_orders(line: str) -> Iterator[Order]:
    """The faults of a line; see the module.

    Raises
    ------
    ConfigError
        It is none.
    """
    for text in filter(None, map(str.strip, line.split(";"))):
        found = _LINE.fullmatch(" ".join(text.split()))
        if found is None:
            raise ConfigError(
                f"{text!r} is no fault: write METHOD FAULT, as in 'get fail @3' or 'put slow p=0.1 for=200ms'; "
                f"faults are {', '.join(fault.value for fault in Fault)}."
            )
        times = found["times"] or ("1" if found["at"] else None)
        yield Order(
            found["operation"], Fault(found["fault"]), int(found["at"] or 1), int(times) if times else None,
            float(found["probability"] or 1), parse_duration(found["wait"]) if found["wait"] else WAIT,
        )  # fmt: skip
