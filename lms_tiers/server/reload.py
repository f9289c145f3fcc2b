"""SIGHUP: settings are read again, all checked, then all taken over; or nothing has changed, and the log says so."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from lms_tiers.device import parse_device
from lms_tiers.errors import ConfigError, DeadlineExceededError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.place.machine import Machine
from lms_tiers.server.fit import check_fit
from lms_tiers.server.server import Server, tls_context
from lms_tiers.server.settings import ServerSettings
from lms_tiers.sizes import format_size

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Change:
    """Another capacity for a tier, bytes; None is no limit."""

    tier: str
    before: int | None
    after: int

    @property
    def grows(self) -> bool:
        return self.before is not None and self.after > self.before


def reload(
    server: Server, current: ServerSettings, read: Callable[[], ServerSettings], machine: Machine | None = None
) -> ServerSettings:
    """Take over new capacities and the certificates that lie in the files now; whatever is wrong, the server goes on.

    Capacities that do not fit `machine` (None: this one) are told as at the start, and refused where it is strict.

    Returns
    -------
    ServerSettings
        Those in force.
    """
    try:
        settings = read()
        _check_rest(current, settings)
        changes = _changes(server.backend, current, settings)
        if changes:
            check_fit(settings, machine)
        tls = tls_context(settings)
        _apply(server.backend, changes)
    except Exception as error:
        expected = isinstance(error, ValueError | OSError)  # as all errors of settings, files and resizing are
        _log.error(
            "not reloaded: all is as it was",
            extra={"fault": str(error), "in_force": _in_force(server.backend)},
            exc_info=None if expected else error,
        )
        return current
    server.use_tls(tls)
    files = {"tls_cert": settings.tls_cert} if tls is not None else {}
    _log.info("reloaded", extra={"in_force": _in_force(server.backend), **files})
    return settings


def _check_rest(current: ServerSettings, settings: ServerSettings) -> None:
    """Raise `ConfigError` where a setting has changed that only a new process takes."""
    names = [n for n in ServerSettings.model_fields if n != "device" and getattr(settings, n) != getattr(current, n)]
    if names:
        raise ConfigError(f"{', '.join(names)} changed: restart to change that, or change it back and reload.")
    old, new = (parse_device(s.device) for s in (current, settings))
    if old.store != new.store:
        raise ConfigError("the options of the store are others: restart to change them.")
    if [replace(tier, capacity=None) for tier in old.tiers] != [replace(tier, capacity=None) for tier in new.tiers]:
        raise ConfigError("the tiers are others, or their options: restart to change them.")


def _changes(backend: LMSBackendInterface, current: ServerSettings, settings: ServerSettings) -> list[_Change]:
    """What is to be resized; raises `ConfigError` where that cannot be."""
    if not hasattr(backend, "resize"):
        if parse_device(settings.device) != parse_device(current.device):
            raise ConfigError("a device of one backend without a tier around it has no capacity to change: restart.")
        return []
    changes = []
    for tier, wanted in zip(_tiers(backend), parse_device(settings.device).tiers, strict=True):
        name, before = tier
        if wanted.capacity == before:
            continue
        if wanted.capacity is None:
            raise ConfigError(f"the tier {name!r} cannot lose its limit: restart to change that.")
        changes.append(_Change(name, before, wanted.capacity))
    return changes


def _apply(backend: LMSBackendInterface, changes: Sequence[_Change]) -> None:
    """Resize all tiers, or none.

    What grows comes first: it may be refused, and costs no chunk where it has to be taken back.
    """
    resize: Final = getattr(backend, "resize", None)
    if resize is None:
        return
    with contextlib.ExitStack() as undo:
        for change in sorted(changes, key=lambda change: not change.grows):
            undo.callback(_restore, resize, change)
            resize(change.tier, change.after)
        undo.pop_all()


def _restore(resize: Callable[[str, int], None], change: _Change) -> None:
    # A deadline missed leaves the capacity in force, and what is above it on its way out.
    with contextlib.suppress(DeadlineExceededError):
        resize(change.tier, sys.maxsize if change.before is None else change.before)


def _tiers(backend: LMSBackendInterface) -> list[tuple[str, int | None]]:
    """Name and capacity of each tier of a store, as they are in force."""
    return [(tier.name, tier.capacity_bytes) for tier in getattr(backend.stats(), "tiers", ())]


def _in_force(backend: LMSBackendInterface) -> str:
    sizes = ((name, "no limit" if capacity is None else format_size(capacity)) for name, capacity in _tiers(backend))
    return ", ".join(f"{name} {size}" for name, size in sizes)
