"""The hooks, one screen: what a plugin can register, and how it observes.

A plugin is an entry point of group `lms_tiers` whose module or object carries functions marked with `hookimpl`.
Hooks are for discovery only: none is called on the path of a `get` or `put`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import pluggy

if TYPE_CHECKING:
    from lms_tiers.tiered.watch.events import TierEvent

#: pluggy project name and entry-point group.
PROJECT: Final = "lms_tiers"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSpec:
    """One backend.

    Attributes
    ----------
    name : str
        How a device text calls it: lower-case letters, digits, ``-`` and ``_``.
    factory : callable or str
        ``factory(location: str, capacity: int | None, options) -> LMSBackendInterface``, or ``"module:attr"`` of one,
        imported on first use. `location` is the text after the colon (``""`` without one), `capacity` is in bytes,
        `options` an instance of the options model.
    options : type, str or None
        A pydantic model (or ``"module:attr"`` of one) of the options after ``?``; None takes none.
    summary : str
        One line for `lms-tiers plugins`.
    example : str
        A device text to try it with; may hold ``{tmp}`` (an empty directory), ``{capacity}`` (bytes), ``{server}``
        (the address of an lm:// server) and ``{deadline}`` (seconds a call may take). The conformance kit runs on it.
    aliases : tuple of str
        Other names for the same backend.
    medium : {"memory", "disk", "shared", ""}
        What its chunks take: the machine's memory, the disk its location lies on, an engine that others use too, or
        none of these or not known. A capacity is compared with what there is; a store opens without an engine that
        cannot be reached now.
    imports : tuple of str
        Packages that it imports and its distribution installs with an extra only.
    extra : str
        That extra: ``"lms-tiers[s3]"``.
    probe : callable, str or None
        ``probe(backend)``, or ``"module:attr"`` of it: what `lms-tiers doctor` says of the place behind an open
        backend, as tuples of state (``"ok"``, ``"note"`` or ``"fault"``), finding and advice.
    conformance : object, str or None
        The conformance kit's `Harness` for this backend, its class, or ``"module:attr"`` of one: where it needs more
        than a directory, such as a server. None: the kit opens `example`.
    """

    name: str
    factory: Callable[..., Any] | str
    options: type[Any] | str | None = None
    summary: str = ""
    example: str = ""
    aliases: tuple[str, ...] = ()
    medium: Literal["memory", "disk", "shared", ""] = ""
    imports: tuple[str, ...] = ()
    extra: str = ""
    probe: Callable[..., Any] | str | None = None
    conformance: object | str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySpec:
    """One eviction policy: ``factory(capacity: int, clock: Callable[[], float]) -> EvictionPolicy``."""

    name: str
    factory: Callable[..., Any] | str
    summary: str = ""
    simulation_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecSpec:
    """One codec: ``factory(argument: str) -> Codec``; `argument` is the text after the colon in ``zstd:3``."""

    name: str
    factory: Callable[..., Any] | str
    summary: str = ""


@hookspec
def register_backends(register: Callable[[BackendSpec], None]) -> None:
    """Call `register` with a `BackendSpec` for each backend."""


@hookspec
def register_policies(register: Callable[[PolicySpec], None]) -> None:
    """Call `register` with a `PolicySpec` for each eviction policy."""


@hookspec
def register_codecs(register: Callable[[CodecSpec], None]) -> None:
    """Call `register` with a `CodecSpec` for each codec."""


@hookspec
def tier_events(events: Sequence[TierEvent]) -> None:
    """Observe what tiers did: called with batches, off the data path, from one thread."""
