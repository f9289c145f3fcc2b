"""The interfaces that are known, and the registry of their properties. No check lives here."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lms_conformance.spec import Property
from lms_tiers.errors import ConfigError

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

#: The family of all of them.
FAMILY: Final = "DOR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One kind of adapter of one engine.

    Attributes
    ----------
    name : str
        As the command line has it.
    letter : str
        Its properties are ``DOR-<letter>01`` and so on.
    engine, package : str
        The engine, and the package that has to be importable.
    adapter : str
        What is tried, in words.
    modules : tuple of str
        Of the engine, imported before anything is tried.
    """

    name: str
    letter: str
    engine: str
    package: str
    adapter: str
    modules: tuple[str, ...]

    @property
    def folder(self) -> str:
        """The package that holds it."""
        return f"lms_conformance.adapters.{self.name.replace('-', '_')}"

    def missing(self) -> str | None:
        """Why the engine cannot be imported here; None where it can."""
        for module in self.modules:
            try:
                importlib.import_module(module)
            except Exception as error:  # an engine without its accelerator raises anything
                return f"{self.engine} cannot be imported here ({module}: {type(error).__name__}: {error})"
        return None

    def harness(
        self, subject: str, options: Mapping[str, Any], failing: Mapping[str, Any] | None = None,
        stalling: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """The harness of an adapter; see `AdapterHarness`."""
        return importlib.import_module(f"{self.folder}.harness").HARNESS(subject, options, failing, stalling=stalling)


INTERFACES: Final[Mapping[str, Interface]] = {
    one.name: one
    for one in (
        Interface(
            name="hicache", letter="H", engine="SGLang", package="sglang",
            adapter="a storage backend of HiCache", modules=("sglang.srt.mem_cache.hicache_storage",),
        ),
        Interface(
            name="lmcache-connector", letter="C", engine="LMCache", package="lmcache",
            adapter="a remote connector of the in-process mode", modules=("lmcache.v1.storage_backend.connector",),
        ),
        Interface(
            name="lmcache-l2", letter="L", engine="LMCache", package="lmcache",
            adapter="an L2 adapter of the multi-process mode", modules=("lmcache.v1.distributed.l2_adapters.base",),
        ),
        Interface(
            name="vllm-tier", letter="V", engine="vLLM", package="vllm",
            adapter="a secondary tier of KV offloading",
            modules=("vllm.v1.kv_offload.tiering.base", "vllm.v1.kv_offload.tiering.factory"),
        ),
    )
}  # fmt: skip


def interface(name: str) -> Interface:
    """The interface of that name.

    Raises
    ------
    ConfigError
        There is none.
    """
    if name not in INTERFACES:
        raise ConfigError(f"there is no interface {name!r}.", unknown=name, known=INTERFACES)
    return INTERFACES[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Property):
    """A property of adapters; what it needs is said by the features that its interface knows."""

    lacks: Mapping[str, str]

    def not_applicable(self, have: frozenset[str]) -> str | None:
        """Why it does not apply to an adapter that has `have`; None where it is required."""
        return next((self.lacks[need] for need in self.needs if need not in have), None)


class Rules:
    """Registers the properties of one interface.

    Parameters
    ----------
    name : str
        Of the interface.
    lacks : mapping of str to str
        Features that a property may need, and what to say where one is missing.
    """

    def __init__(self, name: str, lacks: Mapping[str, str]) -> None:
        self.of: Final = interface(name)
        self.lacks: Final = lacks
        self.known: Final[dict[str, Rule]] = {}

    def __call__(
        self, number: int, sentence: str, *, needs: Iterable[str] = (),
        given: Callable[[], SearchStrategy[Any]] | None = None, weight: float = 1.0,
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:  # fmt: skip
        """Register the decorated function as the check of a property."""
        needs = tuple(needs)

        def register(check: Callable[..., None]) -> Callable[..., None]:
            id = f"{FAMILY}-{self.of.letter}{number:02}"
            if id in self.known or any(need not in self.lacks for need in needs):
                raise ConfigError(f"property {id!r} is registered twice, or needs something unknown.")
            self.known[id] = Rule(
                id=id, sentence=sentence, check=check, needs=needs, given=given, weight=weight, lacks=self.lacks
            )
            return check

        return register


def rules(name: str) -> list[Rule]:
    """Every property of an interface, by number; its engine is not needed for that."""
    folder = importlib.import_module(interface(name).folder)
    for module in pkgutil.iter_modules(folder.__path__):
        if module.name.startswith("rules"):
            importlib.import_module(f"{folder.__name__}.{module.name}")
    known: dict[str, Rule] = folder.RULES.known
    return [known[id] for id in sorted(known)]
