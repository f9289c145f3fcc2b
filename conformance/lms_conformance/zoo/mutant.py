"""What a mutant is: a wrapper of a correct backend (or of the user's own) with one promise broken."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, List, Optional, TypeVar

from lms_tiers.errors import ConfigError
from lms_tiers.interface import BackendStats, Capabilities, ChunkInfo, ChunkView, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientCommand, ClientMetaMessage, LMSMemoryObj

Backend = TypeVar("Backend", bound=type[LMSBackendInterface])


class Wrapper(LMSBackendInterface):
    """Everything as the wrapped backend does it; a mutant changes one thing."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        self.inner = inner

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]  # the wrapped backend's own
        """What the wrapped backend declares."""
        return self.inner.capabilities

    @property
    def device(self) -> Any:
        """Where the wrapped backend keeps tensors."""
        return getattr(self.inner, "device", "cpu")

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:  # noqa: D102
        self.inner.put(client_meta, kv_chunk_bytes)

    def contains(self, key: CacheEngineKey) -> bool:  # noqa: D102
        return self.inner.contains(key)

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:  # noqa: D102
        return self.inner.get(key)

    def list_keys(self) -> List[CacheEngineKey]:  # noqa: D102
        return self.inner.list_keys()

    def close(self) -> None:  # noqa: D102
        self.inner.close()

    def remove(self, key: CacheEngineKey) -> None:  # noqa: D102
        self.inner.remove(key)

    def put_many(self, items: Sequence[tuple[ClientMetaMessage, bytearray]]) -> None:  # noqa: D102
        self.inner.put_many(items)

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:  # noqa: D102
        return self.inner.get_many(keys)

    def contains_prefix(self, keys: Sequence[CacheEngineKey]) -> int:  # noqa: D102
        return self.inner.contains_prefix(keys)

    def contains_many(self, keys: Sequence[CacheEngineKey]) -> list[bool]:  # noqa: D102
        return self.inner.contains_many(keys)

    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:  # noqa: D102
        return self.inner.get_into(key, buffer)

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:  # noqa: D102
        with self.inner.view(key) as view:
            yield view

    def get_tensor(self, key: CacheEngineKey, out: Any = None) -> Any:  # noqa: D102
        return self.inner.get_tensor(key, out)

    def put_tensor(self, client_meta: ClientMetaMessage, tensor: Any) -> None:  # noqa: D102
        self.inner.put_tensor(client_meta, tensor)

    def stats(self) -> BackendStats:  # noqa: D102
        return self.inner.stats()

    def flush(self, timeout: float | None = None) -> None:  # noqa: D102
        self.inner.flush(timeout)

    @property
    def usable_bytes(self) -> int | None:  # noqa: D102
        return self.inner.usable_bytes

    def reserve_bytes(self, length: int) -> int:  # noqa: D102
        return self.inner.reserve_bytes(length)

    def stored_bytes(self, key: CacheEngineKey) -> int | None:  # noqa: D102
        return self.inner.stored_bytes(key)

    def scan(self) -> Iterator[ChunkInfo]:  # noqa: D102
        return self.inner.scan()

    def touch(self, keys: Sequence[CacheEngineKey]) -> None:  # noqa: D102
        self.inner.touch(keys)

    def save_state(self, state: bytes) -> None:  # noqa: D102
        self.inner.save_state(state)

    def load_state(self) -> bytes | None:  # noqa: D102
        return self.inner.load_state()


def text_of(key: Any) -> str:
    """A key's text; of one that has none, something that the wrapped backend will refuse."""
    to_string = getattr(key, "to_string", None)
    text = to_string() if to_string is not None else ""
    return text if isinstance(text, str) else ""


def with_key(message: Any, key: Any) -> ClientMetaMessage:
    """A message with another key."""
    return ClientMetaMessage(ClientCommand.PUT, key, message.length, message.fmt, message.dtype, message.shape)


def with_length(message: Any, length: int) -> ClientMetaMessage:
    """A message with another length."""
    return ClientMetaMessage(ClientCommand.PUT, message.key, length, message.fmt, message.dtype, message.shape)


def with_data(obj: LMSMemoryObj, data: Any) -> LMSMemoryObj:
    """An answer with other data."""
    return LMSMemoryObj(data, obj.length, obj.fmt, obj.dtype, obj.shape)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One broken backend.

    Attributes
    ----------
    name, sentence : str
    kills : tuple of str
        The properties that must catch it, each by its own assertion.
    base : str
        The reference that it breaks.
    build : type
        A `Wrapper` (which can break any backend), or a subclass of a reference.
    """

    name: str
    sentence: str
    kills: tuple[str, ...]
    base: str
    build: type[LMSBackendInterface]

    @property
    def generic(self) -> bool:
        """Whether it can be put around any backend."""
        return issubclass(self.build, Wrapper)


_registered: dict[str, Mutant] = {}


def mutant(name: str, *kills: str, base: str = "memory") -> Callable[[Backend], Backend]:
    """Register a class as a mutant; its docstring says what is broken."""

    def register(build: Backend) -> Backend:
        if name in _registered:
            raise ConfigError(f"two mutants are called {name!r}.")
        sentence = (build.__doc__ or "").strip().splitlines()[0]
        _registered[name] = Mutant(name, sentence, kills, base, build)
        return build

    return register


@lru_cache(maxsize=1)
def _load() -> None:
    from lms_conformance import zoo

    for module in pkgutil.iter_modules(zoo.__path__):
        if module.name.startswith("broken_"):
            importlib.import_module(f"{zoo.__name__}.{module.name}")


def mutants() -> dict[str, Mutant]:
    """Every mutant by name."""
    _load()
    return dict(sorted(_registered.items()))
