"""Waivers: a property that a backend is known to break, with a reason and a day after which it counts again."""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lms_tiers.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Waiver:
    """One waived property; it still runs, and its passing is an error.

    Attributes
    ----------
    property : str
        The ID.
    reason : str
    expires : datetime.date
        The last day on which it holds.
    """

    property: str
    reason: str
    expires: datetime.date

    def holds(self, today: datetime.date) -> bool:
        """Whether it has not expired."""
        return today <= self.expires


def read_waivers(path: Path) -> list[Waiver]:
    """The waivers of a TOML file: ``[[waiver]]`` tables with `property`, `reason` and `expires` (a date).

    Raises
    ------
    ConfigError
        It cannot be read, or a table lacks one of the three.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("waiver", [])
    except (OSError, ValueError) as error:
        raise ConfigError(f"waiver file {path} cannot be read: {error}") from error
    waivers = []
    for table in tables:
        match table:
            case {"property": str(name), "reason": str(reason), "expires": datetime.date() as expires} if reason:
                waivers.append(Waiver(name, reason, expires))
            case _:
                raise ConfigError(f"waiver file {path}: a [[waiver]] needs property, reason and expires (a date).")
    return waivers


def by_property(waivers: Iterable[Waiver], known: Iterable[str]) -> dict[str, Waiver]:
    """Waivers by the property they name.

    Raises
    ------
    ConfigError
        One names no property, or two name the same.
    """
    known = set(known)
    found: dict[str, Waiver] = {}
    for waiver in waivers:
        if waiver.property not in known:
            raise ConfigError(
                f"a waiver names {waiver.property!r}, which is no property.", unknown=waiver.property, known=known
            )
        if waiver.property in found:
            raise ConfigError(f"{waiver.property} is waived twice.")
        found[waiver.property] = waiver
    return found
