"""Harnesses of registered backends and of device texts: what the command line and pytest run the kit on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lms_conformance.harness import DEFAULT_CAPACITY, IMPATIENT, PATIENT, Harness, source_of
from lms_conformance.server_harness import ServerHarness
from lms_conformance.serving import LmServers, Serving, filled
from lms_tiers.errors import ConfigError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.secrets import mask, mask_location

if TYPE_CHECKING:
    from lms_tiers.device import TierSpec

#: Stands for the directory while a text is only looked at.
_EXAMPLE: Final = "tmp-of-conformance"
_SERVER: Final = "server-of-conformance"

#: Stands for the capacity meanwhile: no text says just this.
_CAPACITY: Final = DEFAULT_CAPACITY + 1


class DeviceHarness(Harness):
    """A device text, opened by `CreateStorageBackend`.

    Parameters
    ----------
    device : str
        May hold ``{tmp}`` (a fresh directory), ``{capacity}``, and ``{server}`` (the address of a server that the kit
        starts for each place: that of the `ServerHarness` which the backend's spec names, or an lm:// server), and
        ``{deadline}`` (the seconds that a call may take; few where LIV stalls the server). A
        location that is a path must hold ``{tmp}``, and so must a tier that is shared with others: the kit writes,
        damages and destroys what it opens.

    Raises
    ------
    ConfigError
        The text names a path, or a place in an engine, without ``{tmp}``.
    """

    def __init__(self, device: str) -> None:
        from lms_tiers.device import parse_device
        from lms_tiers.registry import know_secrets

        self.device = device
        know_secrets(device)
        self.name = mask(device)
        example = parse_device(filled(device, Path(_EXAMPLE), _CAPACITY, _SERVER)).tiers
        served = [tier.name for tier in example if _SERVER in tier.text]
        self.served = _serving(served[0]) if served else None
        self.has_server = self.served is not None
        self.deadline = IMPATIENT if "{deadline}" in device else None
        self.capacity_scale = max(1, device.count("{capacity}") + isinstance(self.served, LmServers))
        self.capacity_besides = sum(tier.capacity or 0 for tier in example if tier.capacity != _CAPACITY)
        chosen = isinstance(self.served, LmServers) or "{capacity}" in device
        self.takes_capacity = chosen and not any(map(self._has_no_bound, example))
        self.local = self.served.local if self.served is not None else all(map(_goes_with_it, example))
        self.known = self.served is not None or all(map(_is_its_own, example))
        for tier in example:
            self._refuse_a_real_place(tier)

    def _has_no_bound(self, tier: TierSpec) -> bool:
        """Whether a tier takes all that it gets: then the whole has no capacity either."""
        if isinstance(self.served, LmServers) and _SERVER in tier.text:
            return False
        return tier.capacity is None and str(_CAPACITY) not in tier.text

    def _refuse_a_real_place(self, tier: TierSpec) -> None:
        if _EXAMPLE not in tier.location and _is_path(tier.location):
            raise ConfigError(
                f"the kit would write to and damage {mask_location(tier.location)}: "
                f"write {{tmp}} for the location, as in '{tier.name}:{{tmp}}'."
            )
        alone = _SERVER in tier.text and self.served is not None and not self.served.shared
        if _medium(tier.name) == "shared" and _EXAMPLE not in tier.text and not alone:
            raise ConfigError(
                f"the kit would write to and remove what others have at {tier.name}:{mask_location(tier.location)}: "
                f"write {{tmp}} into its location or an option such as a prefix, so that each place is one of its own."
            )

    def _text(self, path: Path, capacity: int | None, deadline: float = PATIENT) -> str:
        return filled(self.device, path, capacity, self.start(path, capacity), deadline)

    def start(self, path: Path, capacity: int | None) -> str:
        """Start the server of a place."""
        return self.served.start(path, capacity) if self.served is not None else ""

    def reopen(self, path: Path, capacity: int | None) -> LMSBackendInterface:
        """Open it again; a server that died is started again."""
        if self.served is not None:
            self.served.revive(path)
        return self.open(path, capacity)

    def stop(self, path: Path) -> None:
        """End the server of this place."""
        if self.served is not None:
            self.served.stop(path)

    def kill(self, path: Path) -> None:
        """SIGKILL to the server of this place."""
        assert self.served is not None
        self.served.kill(path)

    def stall(self, path: Path) -> None:
        """SIGSTOP to the server of this place."""
        assert self.served is not None
        self.served.stall(path)

    def heal(self, path: Path) -> None:
        """Let the server of this place go on, or start it again."""
        assert self.served is not None
        self.served.heal(path)

    def clean(self, path: Path, capacity: int | None) -> None:
        """Remove what is left of a place in an engine; a server of its own takes everything along."""
        if self.served is None or self.served.shared:
            super().clean(path, capacity)

    def end(self) -> None:
        """End the servers."""
        if self.served is not None:
            self.served.end()

    def corrupt(self, path: Path, data: bytes) -> bool:
        """Damage what the server's store, or the backend's own, wrote."""
        self.stop(path)
        return super().corrupt(path, data)

    def truncate(self, path: Path) -> bool:
        """Cut the files of the server's store, or of the backend's own, short."""
        self.stop(path)
        return super().truncate(path)

    def open(self, path: Path, capacity: int | None) -> LMSBackendInterface:
        """Open the device with its placeholders filled in.

        Raises
        ------
        StorageUnavailableError
            Its server cannot open its store at `path`. A tiered store opens without its shared tier; here that tier's
            place is the one under test.
        """
        from lms_conformance.servers import stands
        from lms_tiers.errors import StorageUnavailableError

        text = self._text(path, capacity)
        backend = self._opened(text)
        if isinstance(self.served, LmServers) and not stands(text):
            backend.close()
            raise StorageUnavailableError(str(path), "the server's store cannot be opened there.")
        return backend

    def open_impatient(self, path: Path, capacity: int | None) -> LMSBackendInterface:
        """The same with a short ``{deadline}``."""
        return self._opened(self._text(path, capacity, IMPATIENT))

    def _opened(self, text: str) -> LMSBackendInterface:
        from lms_tiers.factory import CreateStorageBackend

        return CreateStorageBackend(text)

    def told(self, path: Path, capacity: int | None) -> dict[str, Any] | None:
        """The device text."""
        bare = isinstance(self, NameHarness)
        return None if self.served is not None else {"device": filled(self.device, path, capacity, ""), "bare": bare}

    def source(self) -> str:
        """A call of the factory, or of this harness where it starts a server."""
        if self.served is not None:
            return source_of(mask(self.device))
        return (
            "from lms_tiers import CreateStorageBackend\n\n"
            "def open_backend(path, capacity=None):\n"
            f"    device = {mask(self.device)!r}.replace('{{tmp}}', str(path))\n"
            f"    return CreateStorageBackend(device.replace('{{capacity}}', f'{{capacity or {DEFAULT_CAPACITY}}}B'))\n"
        )


class NameHarness(DeviceHarness):
    """A backend by its registered name, opened bare with the example device of its `BackendSpec`."""

    def __init__(self, name: str) -> None:
        from lms_tiers.registry import default_registry

        spec = default_registry().backends[name]
        if not spec.example:
            raise ConfigError(f"backend {name!r} has no example device: give its BackendSpec one, or name a device.")
        super().__init__(spec.example)
        self.name = name

    def open(self, path: Path, capacity: int | None) -> LMSBackendInterface:
        """Open the example's one tier without the tiered store around it."""
        return self._opened(self._text(path, capacity))

    def _opened(self, text: str) -> LMSBackendInterface:
        from lms_tiers.device import parse_tier
        from lms_tiers.factory import open_backend

        return open_backend(parse_tier(text))

    def source(self) -> str:
        """A call of the registry, or of this harness where it starts a server."""
        if self.served is not None:
            return source_of(self.name)
        return (
            "from lms_tiers.device import parse_tier\nfrom lms_tiers.factory import open_backend as open_bare\n\n"
            "def open_backend(path, capacity=None):\n"
            f"    text = {mask(self.device)!r}.replace('{{tmp}}', str(path))\n"
            f"    text = text.replace('{{capacity}}', f'{{capacity or {DEFAULT_CAPACITY}}}B')\n"
            "    return open_bare(parse_tier(text))\n"
        )


def _is_path(location: str) -> bool:
    return "/" in location.split("://")[-1].lstrip("/") or location[:1] in "/.~" if location else False


def _medium(name: str) -> str:
    from lms_tiers.registry import default_registry

    known = default_registry().backends
    return known[name].medium if name in known else ""


def _is_its_own(tier: TierSpec) -> bool:
    """Whether each place is another one, as far as the text and the spec tell."""
    return _EXAMPLE in tier.text or not tier.location or _medium(tier.name) in ("memory", "disk")


def _goes_with_it(tier: TierSpec) -> bool:
    """Whether what the tier keeps is below the directory, or ends with the backend."""
    return _medium(tier.name) != "shared"


def _serving(name: str) -> Serving:
    harness = harness_of(name)
    if harness is None:
        return LmServers()
    if not isinstance(harness, ServerHarness):
        raise ConfigError(f"the harness of backend {name!r} starts no server: write no {{server}} in its location.")
    return harness


def harness_of(name: str) -> Harness | None:
    """The harness that a backend's spec names; None where it names none.

    Raises
    ------
    ConfigError
        What it names cannot be imported, or is no harness.
    """
    from lms_tiers.registry import default_registry, load_attribute

    target = default_registry().backends[name].conformance
    if target is None:
        return None
    try:
        found: Any = load_attribute(target)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"backend {name!r} names {target!r} for its conformance: {error}") from error
    if isinstance(found, type):
        found = found()
    if not isinstance(found, Harness):
        raise ConfigError(f"backend {name!r} names {target!r} for its conformance, which is no Harness.")
    return found


def harness_for(subject: str) -> Harness:
    """The harness of a registered name, or of a device text.

    A name has the harness that its spec names, or else its example device.

    Raises
    ------
    ConfigError
        There is no such backend, it has neither, or the text names a place that is not the kit's to destroy.
    """
    from lms_tiers.registry import default_registry

    if subject in default_registry().backends:
        return harness_of(subject) or NameHarness(subject)
    return DeviceHarness(subject)
