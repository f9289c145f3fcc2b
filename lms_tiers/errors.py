"""The closed error taxonomy: every exception this project raises on purpose.

Each error carries what was at fault as attributes, tells the reader what to do next, and survives pickling.
Nothing here knows what a backend, a tier or a policy is.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def _rebuild(cls: Callable[..., LmsTiersError], args: tuple[Any, ...], kwargs: dict[str, Any]) -> LmsTiersError:
    return cls(*args, **kwargs)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those in whose handling it was raised."""
    while error is not None:
        yield error
        error = error.__context__


def from_anywhere(error: BaseException) -> bool:
    """Whether `error` may have come between any two steps: an interrupt, or memory or stack at its end."""
    return any(isinstance(e, (MemoryError, RecursionError)) or not isinstance(e, Exception) for e in chain(error))


def nothing_done(error: BaseException) -> bool:
    """Whether a write that raised `error` has changed nothing: the contract's own errors say so, all but one."""
    return isinstance(error, LmsTiersError) and not isinstance(error, OutcomeUnknownError)


class LmsTiersError(Exception):
    """Base of every error of this project."""

    _init: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> LmsTiersError:  # noqa: D102
        # BaseException pickles by `args`, which holds the message only; keep the constructor's own arguments.
        self = super().__new__(cls)
        self._init = (args, kwargs)
        return self

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.args = (message,)  # OSError, a base of some, sets it in __new__ and not here

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), *self._init)

    def reworded(self, reword: Callable[[str], str]) -> LmsTiersError:
        """The same error, made of other words: every text that it was made of is passed through `reword`."""
        _, (kind, given, named) = self.__reduce__()
        error: LmsTiersError = _rebuild(kind, tuple(reword(a) if isinstance(a, str) else a for a in given), named)
        return error


class ConfigError(LmsTiersError, ValueError):
    """A device text, option, size or setting is not valid.

    Attributes
    ----------
    known : tuple of str
        The names that would have been accepted, where the fault is an unknown name.
    nearest : str or None
        The closest of `known`.
    """

    def __init__(self, message: str, *, unknown: str | None = None, known: Iterable[str] = ()) -> None:
        self.unknown = unknown
        self.known = tuple(sorted(known))
        near = difflib.get_close_matches(unknown, self.known, n=1) if unknown else []
        self.nearest = near[0] if near else None
        if self.nearest:
            message += f" Did you mean {self.nearest!r}?"
        if self.known:
            message += f" Known: {', '.join(self.known)}."
        super().__init__(message)


class PluginError(LmsTiersError):
    """A plugin cannot be used; `plugin` names it."""

    def __init__(self, plugin: str, message: str) -> None:
        self.plugin = plugin
        super().__init__(f"plugin {plugin!r}: {message}")


class PluginConflictError(PluginError):
    """Two distributions claim one name; neither is used until one of them is disabled.

    Attributes
    ----------
    name : str
        The contested name.
    claimants : tuple of str
        The distributions (or entry points) that claim it.
    """

    def __init__(self, name: str, claimants: Iterable[str]) -> None:
        self.name = name
        self.claimants = tuple(claimants)
        super().__init__(
            name,
            f"claimed by {' and by '.join(self.claimants)}: uninstall one of them, "
            "or name the one not wanted in LMS_TIERS_DISABLE.",
        )


class BackendClosedError(LmsTiersError):
    """A backend was called after `close`; open a new one."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        super().__init__(f"{backend} is closed: open a new one with CreateStorageBackend.")


class ForkedProcessError(LmsTiersError):
    """A backend opened before `fork` was called in the child; open one of its own there."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        super().__init__(
            f"{backend} was opened in the parent process: it cannot be used after fork. "
            "Open a backend in the child, or start children with the 'spawn' method."
        )


class UnsupportedError(LmsTiersError):
    """A backend does not declare the capability that this operation needs."""

    def __init__(self, backend: str, operation: str) -> None:
        self.backend = backend
        self.operation = operation
        super().__init__(
            f"{backend} does not support {operation}: use a backend whose capabilities declare it "
            "(see `lms-tiers plugins`)."
        )


class InvalidKeyError(LmsTiersError, ValueError):
    """A key is not usable: empty, not text, not encodable, longer than the backend takes, or made of unusable fields.

    Attributes
    ----------
    key, reason : str
    field : str or None
        The parameter or tag at fault, where a key cannot be built from its fields.
    """

    def __init__(self, key: str, reason: str, field: str | None = None) -> None:
        self.key = key
        self.reason = reason
        self.field = field
        shown = key if len(key) <= 80 else key[:77] + "..."
        super().__init__(f"key {shown!r}: {reason}")


class InvalidChunkError(LmsTiersError, ValueError):
    """A chunk's bytes and its metadata do not belong together, or the metadata cannot be stored."""

    def __init__(self, key: str, reason: str) -> None:
        self.key = key
        self.reason = reason
        super().__init__(f"chunk {key!r}: {reason}")


class InvalidBufferError(LmsTiersError, ValueError):
    """A destination buffer given by the caller is too small, read-only or not contiguous."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class ValueTooLargeError(LmsTiersError, ValueError):
    """A chunk is larger than the backend, or every tier of the store, can ever hold.

    Attributes
    ----------
    size, limit : int
        Bytes.
    """

    def __init__(self, key: str, size: int, limit: int, where: str) -> None:
        self.key = key
        self.size = size
        self.limit = limit
        self.where = where
        super().__init__(
            f"chunk {key!r} takes {size} bytes but {where} holds at most {limit}: "
            "raise its capacity or make the chunks smaller."
        )


class CapacityError(LmsTiersError):
    """There is no room for a chunk now, though there could be: a bare backend is full, or back-pressure timed out."""

    def __init__(self, where: str, needed: int, free: int) -> None:
        self.where = where
        self.needed = needed
        self.free = free
        super().__init__(
            f"{where} has {free} bytes free and needs {needed}: remove chunks, raise its capacity, "
            "or put it behind a tier that evicts (give it `capacity` and `policy` in a device text)."
        )


class StorageUnavailableError(LmsTiersError, OSError):
    """A medium cannot be used: no such directory, not writable, I/O error, server unreachable, disk full."""

    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        self.reason = reason
        super().__init__(f"{where}: {reason}")


class StorageFullError(StorageUnavailableError):
    """The medium has no room left, whoever took it: nothing can be written, what is stored can be read.

    `CapacityError` is about the backend's own limit.
    """


class OutcomeUnknownError(StorageUnavailableError):
    """A write may have been carried out or not: it was sent, and no answer came.

    The key holds the old chunk or the new one, whole, and a write that is still on its way may take effect later.
    Read or write again to know; do not take it for undone.

    Attributes
    ----------
    operation : str
        The method that was called, such as ``"put"``.
    """

    def __init__(self, where: str, operation: str, reason: str) -> None:
        self.operation = operation
        super().__init__(where, f"{operation} may have been carried out or not: {reason}")


class StorageLockedError(StorageUnavailableError):
    """Another process, or another backend of this process, holds the storage."""

    def __init__(self, where: str, holder: str) -> None:
        self.holder = holder
        super().__init__(where, f"held by {holder}: close that one first, or use another path.")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), (self.where, self.holder), {})


class FormatError(LmsTiersError):
    """A file is of another format or version; it was left untouched."""

    def __init__(self, where: str, found: str, expected: str) -> None:
        self.where = where
        self.found = found
        self.expected = expected
        super().__init__(
            f"{where} holds {found}, this version reads {expected}: it was left untouched; "
            "use another path, or move the file away."
        )


class DeadlineExceededError(LmsTiersError, TimeoutError):
    """An operation with a deadline (`flush`, `drain`, a remote call) did not finish in time."""

    def __init__(self, operation: str, seconds: float) -> None:
        self.operation = operation
        self.seconds = seconds
        super().__init__(f"{operation} did not finish within {seconds:g} s.")


class PolicyError(LmsTiersError):
    """An eviction policy broke its contract (absent, protected or repeated victim, or it raised)."""

    def __init__(self, policy: str, reason: str) -> None:
        self.policy = policy
        self.reason = reason
        super().__init__(f"policy {policy!r}: {reason} The tier goes on in LRU order.")


class TraceError(LmsTiersError, ValueError):
    """A trace file cannot be read; `line` is 1-based, 0 where the whole file is at fault."""

    def __init__(self, path: str, line: int, reason: str) -> None:
        self.path = path
        self.line = line
        self.reason = reason
        super().__init__(f"{path}:{line}: {reason}" if line else f"{path}: {reason}")


class ProtocolError(LmsTiersError):
    """A peer broke the lm:// wire protocol; `peer` names it."""

    def __init__(self, peer: str, reason: str) -> None:
        self.peer = peer
        self.reason = reason
        super().__init__(f"{peer}: {reason}")


class CodecError(LmsTiersError):
    """Encoded blocks are damaged, do not fit the chunk, or are of a layout nobody here reads; treat it as a miss.

    Attributes
    ----------
    layout : str
        The layout named with the blocks.
    reason : str
        What is wrong.
    """

    def __init__(self, layout: str, reason: str) -> None:
        self.layout = layout
        self.reason = reason
        super().__init__(f"codec layout {layout!r}: {reason}")


class DeviceMemoryError(StorageUnavailableError):
    """An accelerator has too little free memory for a tier's capacity, which is taken whole at start.

    Attributes
    ----------
    asked, free : int
        Bytes.
    """

    def __init__(self, where: str, asked: int, free: int) -> None:
        self.asked = asked
        self.free = free
        super().__init__(where, f"asked for {asked} bytes of memory, {free} are free: lower the tier's capacity")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), (self.where, self.asked, self.free), {})
