"""What a broken promise looks like: `Violation`, raised by a property's own check, and the error of a failed run."""

from __future__ import annotations

from typing import NoReturn


class Violation(AssertionError):
    """A backend broke a property.

    Attributes
    ----------
    expected, got : str
        What the contract says, and what was seen.
    code : str or None
        A line of Python that fails at the end of the recorded program.
    kind : {"assertion", "raised"}
        Whether a check of the property failed, or a call raised what the property did not foresee.
    """

    def __init__(self, expected: str, got: str, *, code: str | None = None, kind: str = "assertion") -> None:
        self.expected = expected
        self.got = got
        self.code = code
        self.kind = kind
        super().__init__(f"expected {expected}; got {got}")


class ConformanceError(AssertionError):
    """A run of the kit ended red; the message lists each failed property with its program."""


def violate(expected: str, got: object, code: str | None = None) -> NoReturn:
    """Raise a `Violation`."""
    raise Violation(expected, str(got), code=code)


def expect(condition: object, expected: str, got: object = "", code: str | None = None) -> None:
    """Raise a `Violation` unless `condition` holds."""
    if not condition:
        raise Violation(expected, str(got), code=code)
