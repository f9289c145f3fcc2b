"""How the kit opens a backend: a harness knows where it lives, how to open it again and how to damage it.

The kit opens each backend in a fresh empty directory. Nothing here checks anything.
"""

from __future__ import annotations

import abc
import base64
import inspect
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from lms_conformance.damage import flip_stored, truncate_files
from lms_conformance.waivers import Waiver
from lms_tiers.errors import ConfigError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.secrets import mask, mask_location

#: Capacity where a device text asks for one and a property does not care.
DEFAULT_CAPACITY = 64 * 1024 * 1024

#: What the server behind ``{server}`` keeps its chunks in.
SERVED: Final = "lmdb:{tmp}/served?capacity={capacity}"


class Harness(abc.ABC):
    """What the kit needs to know of a backend beyond the contract.

    Subclass it at module level, so that crash properties can open the backend in a process of their own.

    Attributes
    ----------
    name : str
        How reports call the subject.
    takes_capacity : bool
        Whether `open` heeds its `capacity`; the CAP and EVI families need it.
    capacity_scale : int
        How many tiers get the capacity each; the whole holds that many times as much.
    waivers : sequence of Waiver
    """

    name: str = "backend"
    takes_capacity: bool = False
    capacity_scale: int = 1
    waivers: Sequence[Waiver] = ()
    has_peek: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.has_peek = cls.raw_peek is not Harness.raw_peek

    @abc.abstractmethod
    def open(self, path: Path, capacity: int | None) -> LMSBackendInterface:
        """Open a backend that keeps what it keeps below `path` (an existing, at first empty, directory)."""

    def reopen(self, path: Path, capacity: int | None) -> LMSBackendInterface:
        """Open again what was closed, or whose process was killed."""
        return self.open(path, capacity)

    def stop(self, path: Path) -> None:
        """End what still holds `path` when every backend there is closed, as a server does; by default nothing."""

    def raw_peek(self, path: Path, key: str) -> bytes | None:
        """A chunk's bytes, read past the backend; None where it is not stored."""
        raise NotImplementedError

    def corrupt(self, path: Path, data: bytes) -> bool:
        """Damage the stored form of the chunk whose bytes are `data`; whether anything was changed."""
        return flip_stored(path, data)

    def truncate(self, path: Path) -> bool:
        """Cut what is stored below `path` short; whether anything was changed."""
        return truncate_files(path)

    def source(self) -> str:
        """Python that defines ``open_backend(path, capacity)``, for the programs that failures print."""
        cls = type(self)
        return (
            f"from {cls.__module__} import {cls.__qualname__.split('.')[0]}\n\n"
            f"def open_backend(path, capacity=None):\n    return {cls.__qualname__}().open(path, capacity)\n"
        )

    def recipe(self) -> dict[str, Any] | None:
        """How another process gets this harness, as JSON; None where it cannot (a closure, a lambda)."""
        try:
            pickled = pickle.dumps(self)
        except (pickle.PicklingError, AttributeError, TypeError):
            return None
        modules = []
        for module in _modules_of(self):
            file = getattr(sys.modules.get(module), "__file__", None)
            if file and module != "__main__":
                modules.append((module, file))
            elif module == "__main__":
                return None
        return {"harness": base64.b64encode(pickled).decode(), "modules": modules, "path": sys.path}


def _modules_of(harness: Harness) -> Iterator[str]:
    yield type(harness).__module__
    for value in vars(harness).values():
        module = getattr(value, "__module__", None)
        if callable(value) and isinstance(module, str):
            yield module


class FactoryHarness(Harness):
    """A harness around a callable that opens a backend.

    Parameters
    ----------
    factory : callable
        Takes nothing, or a path, or a path and a capacity in bytes (by position).
    name : str, optional
    """

    def __init__(
        self, factory: Callable[..., LMSBackendInterface], name: str | None = None, waivers: Sequence[Waiver] = ()
    ) -> None:
        self.factory = factory
        self.name = name or str(getattr(factory, "__name__", type(factory).__name__))
        self.waivers = tuple(waivers)
        self._arity = _positional(factory)
        self.takes_capacity = self._arity >= 2

    def open(self, path: Path, capacity: int | None) -> LMSBackendInterface:
        """Call the factory with as many arguments as it takes."""
        return self.factory(*(str(path), capacity)[: self._arity])

    def source(self) -> str:
        """An import of the factory."""
        module, name = getattr(self.factory, "__module__", "?"), getattr(self.factory, "__qualname__", self.name)
        arguments = ("str(path)", "capacity")[: self._arity]
        return (
            f"from {module} import {name.split('.')[0]}\n\n"
            f"def open_backend(path, capacity=None):\n    return {name}({', '.join(arguments)})\n"
        )


def _positional(factory: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return 0
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2
    return min(2, sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters))


class DeviceHarness(Harness):
    """A device text, opened by `CreateStorageBackend`.

    Parameters
    ----------
    device : str
        May hold ``{tmp}`` (a fresh directory), ``{capacity}``, and ``{server}`` (the address of an lm:// server that
        the kit starts over `SERVED`). A location that is a path must hold ``{tmp}``: the kit writes, damages and
        destroys what it opens.

    Raises
    ------
    ConfigError
        The text names a path without ``{tmp}``.
    """

    def __init__(self, device: str) -> None:
        from lms_tiers.device import parse_device
        from lms_tiers.registry import know_secrets

        self.device = device
        know_secrets(device)
        self.name = mask(device)
        self.served = "{server}" in device
        self.capacity_scale = max(1, device.count("{capacity}") + self.served)
        self.takes_capacity = self.served or "{capacity}" in device
        example = _filled(device, Path("tmp-of-conformance"), DEFAULT_CAPACITY, "unix:tmp-of-conformance/socket")
        for tier in parse_device(example).tiers:
            if "tmp-of-conformance" not in tier.location and _is_path(tier.location):
                raise ConfigError(
                    f"the kit would write to and damage {mask_location(tier.location)}: "
                    f"write {{tmp}} for the location, as in '{tier.name}:{{tmp}}'."
                )

    def _text(self, path: Path, capacity: int | None) -> str:
        from lms_conformance.servers import servers

        address = servers().start(path, _filled(SERVED, path, capacity, "")) if self.served else ""
        return _filled(self.device, path, capacity, address)

    def reopen(self, path: Path, capacity: int | None) -> LMSBackendInterface:
        """Open it again; a server is started again, too."""
        self.stop(path)
        return self.open(path, capacity)

    def stop(self, path: Path) -> None:
        """End the server of this place."""
        from lms_conformance.servers import servers

        if self.served:
            servers().stop(path)

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
        from lms_tiers.factory import CreateStorageBackend

        text = self._text(path, capacity)
        backend = CreateStorageBackend(text)
        if self.served and not stands(text):
            backend.close()
            raise StorageUnavailableError(str(path), "the server's store cannot be opened there.")
        return backend

    def source(self) -> str:
        """A call of the factory, or of this harness where it starts a server."""
        if self.served:
            return _source_of(mask(self.device))
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
        from lms_tiers.device import parse_tier
        from lms_tiers.factory import open_backend

        return open_backend(parse_tier(self._text(path, capacity)))

    def source(self) -> str:
        """A call of the registry, or of this harness where it starts a server."""
        if self.served:
            return _source_of(self.name)
        return (
            "from lms_tiers.device import parse_tier\nfrom lms_tiers.factory import open_backend as open_bare\n\n"
            "def open_backend(path, capacity=None):\n"
            f"    text = {mask(self.device)!r}.replace('{{tmp}}', str(path))\n"
            f"    text = text.replace('{{capacity}}', f'{{capacity or {DEFAULT_CAPACITY}}}B')\n"
            "    return open_bare(parse_tier(text))\n"
        )


def _source_of(subject: str) -> str:
    return (
        "from lms_conformance.harness import harness_for\n\n"
        f"def open_backend(path, capacity=None):\n    return harness_for({subject!r}).open(path, capacity)\n"
    )


def _filled(device: str, path: Path, capacity: int | None, server: str) -> str:
    size = f"{DEFAULT_CAPACITY if capacity is None else capacity}B"
    text = device.replace("{capacity}B", "{capacity}").replace("{capacity}", size)
    return text.replace("{tmp}", str(path)).replace("{server}", server)


def _is_path(location: str) -> bool:
    return "/" in location.split("://")[-1].lstrip("/") or location[:1] in "/.~" if location else False


def harness_for(subject: str) -> Harness:
    """The harness of a registered name, or of a device text."""
    from lms_tiers.registry import default_registry

    if subject in default_registry().backends:
        return NameHarness(subject)
    return DeviceHarness(subject)
