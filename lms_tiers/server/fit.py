"""Whether a server's device fits the machine it starts on: a warning in the log, or a refusal if that is asked for."""

from __future__ import annotations

import logging

from lms_tiers.device import parse_device
from lms_tiers.errors import ConfigError
from lms_tiers.place.fit import media_of, misfits
from lms_tiers.place.machine import Machine
from lms_tiers.registry import default_registry
from lms_tiers.server.settings import ServerSettings

_log = logging.getLogger(__name__)


def check_fit(settings: ServerSettings, machine: Machine | None = None) -> None:
    """Compare the capacities, with the receive budget, to memory and disk.

    Raises
    ------
    ConfigError
        They do not fit, and the settings are strict.
    """
    media = media_of(default_registry().backends.specs())
    found = misfits(parse_device(settings.device), media, machine or Machine(), settings.receive_budget)
    if found and settings.strict:
        raise ConfigError(" ".join(found))
    for reason in found:
        _log.warning("the device does not fit this machine: %s", reason)
