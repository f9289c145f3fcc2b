"""The device text (or TOML file) and what it means: an ordered list of tiers, fastest first.

::

    device := ["store" ["?" option ("&" option)*] ">"] tier (">" tier)*
    tier   := name [":" location] ["?" option ("&" option)*]

``store`` stands for the whole; no backend has that name. In a location or an option's value, ``%3E``, ``%3F``, ``%26``
and ``%25`` stand for ``>``, ``?``, ``&`` and ``%``. Nothing here knows which backends exist.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal, get_args
from urllib.parse import quote, unquote

from lms_tiers.errors import ConfigError
from lms_tiers.secrets import MASK, TIER_OPTIONS, is_secret, mask_location, mask_unread
from lms_tiers.sizes import parse_duration, parse_size

WriteMode = Literal["back", "through"]
PromoteMode = Literal["hits", "never"]

#: What the options of the whole store stand behind.
STORE: Final = "store"

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
_TIER_FIELDS: Final = ("name", "location", *TIER_OPTIONS, "options")


@dataclass(frozen=True, slots=True, repr=False)
class TierSpec:
    """One tier of a device. As text it is for people to read: what is secret in it is masked; `text` has everything.

    Attributes
    ----------
    name, location : str
        The backend, and where it keeps its chunks (``""`` where it needs no place).
    capacity : int or None
        Bytes; None where the text gives none.
    policy : str or None
        Eviction policy; None means the default.
    write : {"back", "through"} or None
        When puts reach this tier: as they are demoted, or at once. None: at once where it is shared with others.
    options : mapping of str to Any
        The backend's own options, not yet validated.
    promote : {"hits", "never"}
        Whether chunks that are hit here are offered to the tiers above.
    deadline, revalidate : float or None
        Of a tier shared with others: seconds a call may take, and after which a private copy is asked for again.
    """

    name: str
    location: str = ""
    capacity: int | None = None
    policy: str | None = None
    write: WriteMode | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    promote: PromoteMode = "hits"
    deadline: float | None = None
    revalidate: float | None = None

    @property
    def text(self) -> str:
        """The text that is read as this tier; with its secrets, so it is not to be printed."""
        return self._written(self.location, self.options)

    def __str__(self) -> str:
        options = {name: MASK if is_secret(name) else value for name, value in self.options.items()}
        return self._written(mask_location(self.location), options)

    def __repr__(self) -> str:
        return f"<TierSpec {self}>"

    def _written(self, location: str, options: Mapping[str, Any]) -> str:
        text = self.name + (f":{_quote(location, '/:@{}[], +~=*')}" if location else "")
        given: dict[str, Any] = {}
        if self.capacity is not None:
            given["capacity"] = f"{self.capacity}B"
        if self.policy is not None:
            given["policy"] = self.policy
        if self.write is not None:
            given["write"] = self.write
        if self.promote != "hits":
            given["promote"] = self.promote
        for name, seconds in (("deadline", self.deadline), ("revalidate", self.revalidate)):
            if seconds is not None:
                given[name] = f"{Decimal(repr(seconds)):f}s"
        return text + _options({**given, **options})

    @property
    def bare(self) -> bool:
        """Whether nothing asks for a tier around the backend."""
        asked = (self.capacity, self.policy, self.write, self.deadline, self.revalidate)
        return all(option is None for option in asked) and self.promote == "hits"


@dataclass(frozen=True, slots=True, repr=False)
class DeviceSpec:
    """The tiers of a device, fastest first. As text it is for people to read; see `TierSpec`.

    Attributes
    ----------
    tiers : tuple of TierSpec
    store : mapping of str to Any, or None
        Options of the store over them, not yet validated; None where the device says nothing of a store.
    """

    tiers: tuple[TierSpec, ...]
    store: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        """The text that is read as this device; with its secrets, so it is not to be printed."""
        return self._written(tier.text for tier in self.tiers)

    @property
    def bare(self) -> bool:
        """Whether nothing asks for a store: one tier is its backend, as it is."""
        return self.store is None and len(self.tiers) == 1 and self.tiers[0].bare

    def __repr__(self) -> str:
        return f"<DeviceSpec {self}>"

    def __str__(self) -> str:
        return self._written(map(str, self.tiers))

    def _written(self, tiers: Iterable[str]) -> str:
        return " > ".join(tiers if self.store is None else (STORE + _options(self.store), *tiers))


def parse_device(device: str) -> DeviceSpec:
    """Read a device text, or the TOML file it names.

    Raises
    ------
    ConfigError
        The text does not follow the grammar, a size has no unit, an option stands twice, or the file cannot be read.

    Examples
    --------
    >>> [t.capacity for t in parse_device("cpu?capacity=1KiB > lmdb:/tmp/kv?capacity=1MiB").tiers]
    [1024, 1048576]
    """
    if not isinstance(device, str) or not device.strip():
        raise ConfigError("a device is a text such as 'cpu' or 'cpu?capacity=4GiB > lmdb:/data?capacity=50GiB'.")
    if device.strip().endswith(".toml"):
        return _read_toml(Path(device.strip()))
    tiers = device.split(">")
    if not all(text.strip() for text in tiers):
        raise ConfigError(
            f"in {mask_unread(device.strip())!r}, there is an empty tier beside '>': name a backend, or leave '>' out."
        )
    store = _read_store(tiers.pop(0)) if _head(tiers[0])[0] == STORE else None
    if not tiers:
        raise ConfigError("a store needs a tier: write 'store?option=value > cpu?capacity=4GiB', for example.")
    return DeviceSpec(tuple(map(parse_tier, tiers)), store)


def parse_tier(text: str) -> TierSpec:
    """Read one tier's text; see `parse_device`."""
    name, location, tail = _head(text)
    shown = mask_unread(text.strip())
    fields: dict[str, Any] = {"name": name, "location": _unquote(location), "options": {}}
    for key, value in _read_options(tail, shown).items():
        (fields if key in TIER_OPTIONS else fields["options"])[key] = value
    return _tier(fields, shown)


def _read_store(text: str) -> dict[str, str]:
    _, location, tail = _head(text)
    if location:
        raise ConfigError(f"in {mask_unread(text.strip())!r}, a store has no location: its tiers have.")
    return _read_options(tail, mask_unread(text.strip()))


def _head(text: str) -> tuple[str, str, str | None]:
    """Name, location and, where there is a question mark, the text of the options."""
    head, mark, tail = text.strip().partition("?")
    name, _, location = head.partition(":")
    return name.strip(), location.strip(), tail if mark else None


def _read_options(tail: str | None, shown: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for number, option in enumerate(() if tail is None else tail.split("&"), 1):
        key, equals, value = option.partition("=")
        key = key.strip()
        if not key or not equals:
            raise ConfigError(f"in {shown!r}, option {number} is not of the form option=value.")
        if key in given:
            raise ConfigError(f"in {shown!r}, option {key!r} stands twice.")
        given[key] = _unquote(value.strip())
    return given


def _options(given: Mapping[str, Any]) -> str:
    """Options as they stand in a text, the question mark before them."""
    return "?" + "&".join(f"{k}={_quote(str(v), '/:@, +~*')}" for k, v in given.items()) if given else ""


# A path need not be text: its other bytes travel as Python's file functions give and take them.
def _quote(text: str, safe: str) -> str:
    return quote(text, safe=safe, errors="surrogateescape")


def _unquote(text: str) -> str:
    return unquote(text, errors="surrogateescape")


def _read_toml(path: Path) -> DeviceSpec:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"device file {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"device file {path} is not valid TOML: {error}.") from error
    tiers = document.get("tier")
    if not isinstance(tiers, list) or not tiers or not all(isinstance(t, dict) for t in tiers):
        raise ConfigError(f"device file {path} needs one [[tier]] table or more, fastest first.")
    for unknown in set(document) - {"tier", STORE}:
        raise ConfigError(f"device file {path} has an unknown table.", unknown=unknown, known=["tier", STORE])
    store = document.get(STORE)
    if not isinstance(store, dict | None):
        raise ConfigError(f"device file {path}: store must be a table of options, as [store].")
    return DeviceSpec(tuple(_tier(_toml_fields(t, path), f"{path}, tier {i}") for i, t in enumerate(tiers, 1)), store)


def _toml_fields(table: dict[str, Any], path: Path) -> dict[str, Any]:
    for key in table:
        if key not in _TIER_FIELDS:
            raise ConfigError(f"device file {path}: {key!r} is not a field of a tier.", unknown=key, known=_TIER_FIELDS)
    return {"name": "", "location": "", "options": {}, **table}


def _tier(fields: dict[str, Any], where: str) -> TierSpec:
    name = fields["name"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"in {where!r}, {name!r} is not a backend's name (lower-case letters, digits, - and _).")
    if name == STORE:
        raise ConfigError(f"in {where!r}, 'store' is no backend: options of the store stand before the first tier.")
    capacity = fields.get("capacity")
    if capacity is not None:
        if not isinstance(capacity, str):
            raise ConfigError(f"in {where!r}, capacity = {capacity!r} has no unit: write it as text, such as '4GiB'.")
        capacity = parse_size(capacity)
        if capacity == 0:
            raise ConfigError(f"in {where!r}, a tier of capacity 0 holds nothing: leave the tier out.")
    write: WriteMode | None = fields.get("write")
    promote: PromoteMode = fields.get("promote", "hits")
    for option, value, known in (("write", write, get_args(WriteMode)), ("promote", promote, get_args(PromoteMode))):
        if value is not None and value not in known:
            raise ConfigError(f"in {where!r}, {option} = {value!r}.", unknown=str(value), known=known)
    policy = fields.get("policy")
    if policy is not None and not isinstance(policy, str):
        raise ConfigError(f"in {where!r}, policy = {policy!r} is not a policy's name.")
    if not isinstance(fields["options"], dict) or not isinstance(fields["location"], str):
        raise ConfigError(f"in {where!r}, location must be text and options a table.")
    seconds = [_seconds(fields, option, where) for option in ("deadline", "revalidate")]
    return TierSpec(name, fields["location"], capacity, policy, write, fields["options"], promote, *seconds)


def _seconds(fields: dict[str, Any], option: str, where: str) -> float | None:
    value = fields.get(option)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConfigError(f"in {where!r}, {option} = {value!r} has no unit: write it as text, such as '1s'.")
    seconds = parse_duration(value)
    if not seconds:
        raise ConfigError(f"in {where!r}, {option} = {value!r} is no time at all.")
    return seconds
