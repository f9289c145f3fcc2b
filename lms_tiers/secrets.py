"""What is secret in a device text, and how texts are printed without it: the one place.

A device text is printed before anybody knows its backends, so an option is secret by its name: one that a model
declares as `pydantic.SecretStr`, or one that ends as secrets are called.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

#: What stands for a secret.
MASK: Final = "***"

_CALLED: Final = re.compile(
    r"(?:^|[_-])(?:pass(?:word|wd|phrase)?|secret|token|credentials?|auth|(?:api|access|secret|private)_?key)$", re.I
)
_declared: Final[set[str]] = set()

#: An option of a text, or a piece that is none; a value goes on to the next ``&`` or ``>``.
_OPTION: Final = re.compile(r"([?&]\s*)([^=&>?]*)(=[^&>]*)?")
#: A password before the host of a location: ``user:password@host``, ``redis://:password@host``.
_USER_INFO: Final = re.compile(r"^((?:[\w+.-]+://)?[^/@:?]*):([^?>]+)@")
#: Options of every tier, whatever its backend; none of them is secret.
TIER_OPTIONS: Final = ("capacity", "policy", "write", "promote", "deadline", "revalidate")


def declare(options: Iterable[str]) -> None:
    """Note the names of options that a model declares to be secret."""
    _declared.update(options)


def is_secret(option: str) -> bool:
    """Whether an option of this name holds a secret; where one is kept (``password_file``) is none."""
    return option in _declared or _CALLED.search(option) is not None


def mask_location(location: str) -> str:
    """A tier's location for people to read; a location may be a device text of its own."""
    return _USER_INFO.sub(rf"\1:{MASK}@", mask_options(location))


def mask_options(text: str) -> str:
    """A text with the values of its secret options masked."""

    def masked(found: re.Match[str]) -> str:
        lead, name, value = found.groups()
        if value is None:  # a piece of a value with an '&' in it, perhaps
            return f"{lead}{MASK}" if name.strip() else found[0]
        return f"{lead}{name}={MASK}" if is_secret(name.strip()) else found[0]

    return _OPTION.sub(masked, text)


def mask(device: str) -> str:
    """A device text, as it was given, for people to read."""
    return ">".join(_mask_tier(tier) for tier in device.split(">"))


def _mask_tier(tier: str) -> str:
    head, mark, tail = tier.partition("?")
    name, colon, location = head.partition(":")
    return name + colon + _USER_INFO.sub(rf"\1:{MASK}@", location) + mask_options(mark + tail)


def mask_unread(device: str) -> str:
    """A text that could not be read: no value of any option but a tier's own, and nothing after a secret one."""

    def masked(found: re.Match[str]) -> str:
        lead, name, value = found.groups()
        if value is None:
            return f"{lead}{MASK}" if name.strip() and name.strip() not in TIER_OPTIONS else found[0]
        return found[0] if name.strip() in TIER_OPTIONS else f"{lead}{name}={MASK}"

    for found in _OPTION.finditer(device):
        if found[3] is not None and is_secret(found[2].strip()):
            device = device[: found.start(3)] + f"={MASK}"
            break
    head = ">".join(_mask_tier(tier) for tier in device.split(">"))
    return _OPTION.sub(masked, head)


def scrub(text: str, secrets: Iterable[Any]) -> str:
    """A text of somebody else without these secrets."""
    for secret in sorted(map(str, secrets), key=len, reverse=True):
        if secret:
            text = text.replace(secret, MASK)
    return text


def passwords(location: str) -> list[str]:
    """The passwords in a location."""
    found = _USER_INFO.match(location)
    return [found[2]] if found is not None else []
