"""The registry of properties: identity, sentence, what each needs, and the function that checks it.

The three doors (command line, pytest, plain function) run what is registered here. No check lives here.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lms_conformance.power.build import compiler
from lms_tiers.errors import ConfigError

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from lms_conformance.harness import Harness
    from lms_tiers.interface import Capabilities

#: Version of the set of properties. One that came with a version warns under it, and gates from the next one on.
SPEC_VERSION: Final = "1.1"
FIRST_SPEC: Final = "1.0"

#: From the spec after this one on a pass that reached not every state its property names is red.
MARKS_SINCE: Final = "1.1"

#: Families in the order in which they run and are reported.
FAMILIES: Final[Mapping[str, str]] = {
    "KEY": "identity of keys",
    "PUT": "what is put is what is got",
    "GET": "reading",
    "OVR": "overwriting",
    "RMV": "removing",
    "LST": "listing",
    "CNT": "asking for presence",
    "BAT": "batches",
    "OPT": "optional methods",
    "ALI": "no aliasing",
    "ERR": "errors",
    "LIF": "life cycle",
    "CAP": "capacity",
    "EVI": "eviction",
    "PER": "persistence",
    "CRA": "crashes and damage",
    "CON": "concurrency",
    "FRK": "fork",
    "RES": "resources",
    "TEN": "tensors",
    "SHR": "shared places",
    "LIV": "sick media",
    "PWR": "lost power",
    "UPG": "upgrades",
}

#: Those of `FAMILIES`, and of adapters under engines (`lms_conformance.adapters`), which no backend is asked for.
TITLES: Final[Mapping[str, str]] = {**FAMILIES, "DOR": "an engine's own contract"}

#: What a property may need, and what to say where it is missing. ``!x`` needs the capability not to be declared.
NEEDS: Final[Mapping[str, str]] = {
    "remove": "the backend does not declare `remove`",
    "persistent": "the backend does not declare `persistent`",
    "tensors": "the backend does not declare `tensors`",
    "evicts": "the backend does not declare `evicts`",
    "forkable": "the backend does not declare `forkable`",
    "policy": "the backend declares no policy that the kit has a model of",
    "key_limit": "the backend declares no `max_key_bytes`",
    "value_limit": "the backend declares no `max_value_bytes`",
    "batch_stops": "the backend declares that a failed item does not stop `put_many`",
    "capacity": "the harness opens backends without a capacity",
    "peek": "the harness has no `raw_peek`",
    "local": "the place is no directory that the backend's own process writes to",
    "damage": "the harness cannot damage what is stored: it is local, or overrides `corrupt` and `truncate`",
    "server": "the harness has no server that it can kill and stall",
    "shared": "the backend does not declare `shared`",
    "power": "the backend declares nothing of a loss of power",
    "power_put": "the backend does not declare that what `put` returned for outlives a loss of power",
    "recorder": "there is no C compiler (Linux, 64 bits) to make the recorder of writes with",
    "deadline": "the device text of the harness has no {deadline}: it declares none",
    "predecessor": "no release before was named (`--from`), or it cannot be told how to open a place",
    "processes": "the places of this harness are of one process",
    "!remove": "the backend declares `remove`",
    "!persistent": "the backend declares `persistent`",
    "!evicts": "the backend declares `evicts`",
    "!forkable": "the backend declares `forkable`",
    "!batch_stops": "the backend declares that a failed item stops `put_many`",
}

#: Eviction policies whose order the kit can predict.
MODELLED_POLICIES: Final = ("lru", "fifo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """One promise of the contract, checked.

    Attributes
    ----------
    id : str
        Stable for ever: family, dash, number.
    sentence : str
        The promise.
    needs : tuple of str
        Keys of `NEEDS`; where one is missing the property does not apply.
    since : str
        Spec version it came with.
    given : callable or None
        Makes the strategy whose values `check` takes as its second argument; None: one fixed scenario.
    weight : float
        Share of the profile's examples.
    marks : tuple of str
        States that it must have reached (`Trial.mark`): a pass that did not is vacuous. Where the medium has no such
        state (`Trial.cannot`) the property does not apply.
    check : callable
        Takes a `Trial` (and a drawn value) and raises `Violation`.
    """

    id: str
    sentence: str
    check: Callable[..., None]
    needs: tuple[str, ...] = ()
    since: str = FIRST_SPEC
    given: Callable[[], SearchStrategy[Any]] | None = None
    weight: float = 1.0
    marks: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """The part before the dash."""
        return self.id.partition("-")[0]

    def not_applicable(self, have: frozenset[str]) -> str | None:
        """Why the property does not apply to a backend that has `have`; None where it is required."""
        for need in self.needs:
            if (need[1:] in have) if need.startswith("!") else (need not in have):
                return NEEDS[need]
        return None


_registered: dict[str, Property] = {}


def prop(
    id: str,
    sentence: str,
    *,
    needs: Iterable[str] = (),
    since: str = FIRST_SPEC,
    given: Callable[[], SearchStrategy[Any]] | None = None,
    weight: float = 1.0,
    marks: Iterable[str] = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register the decorated function as the check of a property."""
    needs = tuple(needs)

    def register(check: Callable[..., None]) -> Callable[..., None]:
        family = id.partition("-")[0]
        if id in _registered or family not in FAMILIES or any(n not in NEEDS for n in needs):
            raise ConfigError(f"property {id!r} is registered twice, of no family, or needs something unknown.")
        _registered[id] = Property(
            id=id, sentence=sentence, check=check, needs=needs, since=since, given=given, weight=weight,
            marks=tuple(marks),
        )  # fmt: skip
        return check

    return register


@lru_cache(maxsize=1)
def _load() -> None:
    from lms_conformance import families

    for module in pkgutil.iter_modules(families.__path__):
        importlib.import_module(f"{families.__name__}.{module.name}")


def properties() -> list[Property]:
    """Every property, in the order of `FAMILIES` and number."""
    _load()
    order = list(FAMILIES)
    return sorted(_registered.values(), key=lambda p: (order.index(p.family), p.id))


def select(only: Iterable[str]) -> list[Property]:
    """The properties named by ID or by family; all of them where nothing is named.

    Raises
    ------
    ConfigError
        An unknown ID.
    """
    everything = properties()
    wanted = {w.strip().upper() for text in only for w in text.split(",") if w.strip()}
    if not wanted:
        return everything
    known = {p.id for p in everything} | set(FAMILIES)
    for name in wanted:
        if name not in known:
            raise ConfigError(f"there is no property {name!r}.", unknown=name, known=known)
    return [p for p in everything if p.id in wanted or p.family in wanted]


def features(caps: Capabilities, harness: Harness) -> frozenset[str]:
    """What of `NEEDS` a backend with these capabilities and its harness have."""
    have = {
        n
        for n in ("remove", "persistent", "tensors", "evicts", "forkable", "batch_stops", "shared")
        if getattr(caps, n)
    }
    if caps.evicts and caps.policy in MODELLED_POLICIES:
        have.add("policy")
    if caps.max_key_bytes is not None:
        have.add("key_limit")
    if caps.max_value_bytes is not None:
        have.add("value_limit")
    if harness.takes_capacity:
        have.add("capacity")
    if harness.has_peek:
        have.add("peek")
    if harness.local:
        have.add("local")
    if harness.local or harness.damages:
        have.add("damage")
    if harness.has_server:
        have.add("server")
    if harness.predecessor is not None and harness.told(Path("/"), None) is not None:
        have.add("predecessor")
    if harness.deadline is not None:
        have.add("deadline")
    if not harness.one_process:
        have.add("processes")
    if caps.power is not None:
        have.add("power")
    if caps.power == "put":
        have.add("power_put")
    if compiler() is not None:
        have.add("recorder")
    return frozenset(have)


def parse_version(text: str) -> tuple[int, int]:
    """``"1.0"`` as numbers.

    Raises
    ------
    ConfigError
        It is none.
    """
    try:
        major, minor = text.split(".")
        return int(major), int(minor)
    except ValueError:
        raise ConfigError(f"spec version {text!r} is not of the form 1.0.") from None


def marks_gate(p: Property, spec: str) -> bool:
    """Whether a vacuous pass of `p` turns a run under `spec` red; marks came with a version, and warn under it."""
    return gates(p, spec) and parse_version(MARKS_SINCE) < parse_version(spec)


def gates(p: Property, spec: str) -> bool:
    """Whether `p` can turn a run under `spec` red; one that came with it, or later, only warns."""
    return p.since == FIRST_SPEC or parse_version(p.since) < parse_version(spec)
