"""Sizes and durations with units. One without a unit is refused: nobody agrees on what `4` means."""

from __future__ import annotations

import re
from typing import Final

from lms_tiers.errors import ConfigError

_UNITS: Final = {
    "B": 1,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40, "PIB": 2**50,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15,
}  # fmt: skip
_SECONDS: Final = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_QUANTITY: Final = re.compile(r"\s*(?P<number>[+-]?\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]*)\s*")


def parse_size(text: str) -> int:
    """Bytes of a size such as ``"4GiB"``, ``"1.5 MB"`` or ``"512B"``.

    Raises
    ------
    ConfigError
        No unit, an unknown unit, a negative size, or no number.

    Examples
    --------
    >>> parse_size("1.5KiB")
    1536
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ConfigError(f"size {text!r} is not a number with a unit, such as 4GiB.")
    factor = _UNITS.get(match["unit"].upper())
    if factor is None:
        reason = f"has the unknown unit {match['unit']!r}" if match["unit"] else "has no unit"
        raise ConfigError(f"size {text!r} {reason}: write B, KiB, MiB, GiB, TiB (or KB, MB, GB, TB).")
    if match["number"].startswith("-"):
        raise ConfigError(f"size {text!r} is negative: give 0B or more.")
    whole, _, fraction = match["number"].partition(".")
    return int(whole) * factor + (int(fraction) * factor // 10 ** len(fraction) if fraction else 0)


def parse_duration(text: str) -> float:
    """Seconds of a duration such as ``"500ms"``, ``"2.5 s"``, ``"5min"`` or ``"1h"``.

    Raises
    ------
    ConfigError
        No unit, an unknown unit, a negative duration, or no number.

    Examples
    --------
    >>> parse_duration("500ms")
    0.5
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ConfigError(f"duration {text!r} is not a number with a unit, such as 500ms.")
    factor = _SECONDS.get(match["unit"].lower())
    if factor is None:
        reason = f"has the unknown unit {match['unit']!r}" if match["unit"] else "has no unit"
        raise ConfigError(f"duration {text!r} {reason}: write ms, s, min or h.")
    if match["number"].startswith("-"):
        raise ConfigError(f"duration {text!r} is negative: give 0s or more.")
    return float(match["number"]) * factor


def format_size(nbytes: float) -> str:
    """A size for people, in binary units with at most two decimals.

    Examples
    --------
    >>> format_size(2621440)
    '2.5 MiB'
    """
    value, unit = float(nbytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(value) < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.2f}".rstrip("0").rstrip(".") + f" {unit}"
