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
from typing import TYPE_CHECKING, Any, ClassVar, Final

from lms_conformance.damage import flip_stored, truncate_files
from lms_conformance.waivers import Waiver
from lms_tiers.interface import LMSBackendInterface

if TYPE_CHECKING:
    from lms_conformance.upgrade.predecessor import Predecessor

#: Capacity where a device text asks for one and a property does not care.
DEFAULT_CAPACITY = 64 * 1024 * 1024

#: Seconds that ``{deadline}`` in a device text stands for: where a medium stalls on purpose, and otherwise, because a
#: busy machine is no hung medium.
IMPATIENT: Final = 0.5
PATIENT: Final = 60.0


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
    capacity_besides : int
        Bytes that the whole holds besides: of tiers with a capacity of their own.
    local : bool
        What a place keeps is in files below its directory, which the process with the backend writes, or goes with the
        backend. Otherwise it is removed by `clean`, and properties of directories do not apply.
    known : bool
        Each place is one of its own. Otherwise that is tried before a run: it may be one for all, with others' chunks.
    has_server : bool
        `kill`, `stall` and `heal` reach what keeps the chunks.
    deadline : float or None
        Seconds within which every call of a backend that `open_impatient` opened ends, whatever its medium does; None
        where it declares none.
    recovery : float
        Seconds after `heal` within which such a backend is as before, by itself.
    predecessor : Predecessor or None
        The release before, which the family UPG asks; see `lms_conformance.upgrade.environment.release`.
    one_process : bool
        Another process that opens a place is at another one: what it holds is this process's memory.
    waivers : sequence of Waiver
    """

    name: str = "backend"
    takes_capacity: bool = False
    capacity_scale: int = 1
    capacity_besides: int = 0
    local: bool = True
    known: bool = True
    has_server: bool = False
    predecessor: Predecessor | None = None
    one_process: bool = False
    deadline: float | None = None
    recovery: float = 10.0
    waivers: Sequence[Waiver] = ()
    has_peek: ClassVar[bool] = False
    damages: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.has_peek = cls.raw_peek is not Harness.raw_peek
        cls.damages = cls.corrupt is not Harness.corrupt and cls.truncate is not Harness.truncate

    @abc.abstractmethod
    def open(self, path: Path, capacity: int | None) -> LMSBackendInterface:
        """Open a backend that keeps what it keeps below `path` (an existing, at first empty, directory)."""

    def holds(self, capacity: int) -> int:
        """Bytes that a backend opened with this capacity holds at most, all its tiers together."""
        return capacity * self.capacity_scale + self.capacity_besides

    def reopen(self, path: Path, capacity: int | None) -> LMSBackendInterface:
        """Open again what was closed, or whose process was killed."""
        return self.open(path, capacity)

    def open_impatient(self, path: Path, capacity: int | None) -> LMSBackendInterface:
        """Open a backend that keeps `deadline`, at a place that is open and may be stalled."""
        return self.open(path, capacity)

    def stop(self, path: Path) -> None:
        """End what still holds `path` when every backend there is closed, as a server does; by default nothing."""

    def start(self, path: Path, capacity: int | None) -> str:
        """Start what a place needs before any process opens it, and answer its address; by default nothing."""
        return ""

    def kill(self, path: Path) -> None:
        """SIGKILL to the server of a place, now, as a machine that fails would; see `has_server`."""
        raise NotImplementedError

    def stall(self, path: Path) -> None:
        """Let the server of a place answer nothing until `heal`: it takes connections, but does not go on."""
        raise NotImplementedError

    def heal(self, path: Path) -> None:
        """Undo `stall`, or start what `kill` ended again, at the same address and with what it had kept."""
        raise NotImplementedError

    def clean(self, path: Path, capacity: int | None) -> None:
        """Remove what is left of a place that is not `local`: every chunk, by the backend itself."""
        if not self.local:
            with self.reopen(path, capacity) as backend:
                if backend.capabilities.remove:
                    backend.remove_many(backend.list_keys())

    def end(self) -> None:
        """The run is over: end what serves more than one place; by default nothing."""

    def told(self, path: Path, capacity: int | None) -> dict[str, Any] | None:
        """How another release opens a place, as an order of `upgrade.old_release`; None where that cannot be said."""
        return None

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

    def told(self, path: Path, capacity: int | None) -> dict[str, Any] | None:
        """By the factory's name."""
        module, name = getattr(self.factory, "__module__", None), getattr(self.factory, "__qualname__", "<")
        return None if module is None or "<" in name else {"opener": f"{module}:{name}", "arity": self._arity}

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


def source_of(subject: str) -> str:
    """Python that defines ``open_backend`` by the harness of a name or device text."""
    return (
        "from lms_conformance.devices import harness_for\n\n"
        f"def open_backend(path, capacity=None):\n    return harness_for({subject!r}).open(path, capacity)\n"
    )
