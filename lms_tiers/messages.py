"""Keys, formats and messages: what travels between callers and backends, compatible with LMCache 0.5.6.

Own code works on `ChunkMeta` (what a backend stores beside the bytes) and on a key's canonical text. torch is imported
when a caller asks for a dtype or a shape as torch's own, never to move bytes. Nothing here stores or moves chunks.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Optional

from lms_tiers.errors import FormatError, InvalidChunkError
from lms_tiers.keys import CacheEngineKey, KeyLike, OpaqueKey, dtype_name, key_text, torch_dtype

if TYPE_CHECKING:
    import torch

#: dtype names by their stable number in stored metadata. Append only.
DTYPE_NAMES: Final[tuple[str | None, ...]] = (
    None, "float16", "bfloat16", "float32", "float64", "uint8", "float8_e4m3fn", "float8_e5m2",
    "int8", "int16", "int32", "int64", "bool", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "uint16", "uint32", "uint64", "complex64", "complex128", "complex32", "float8_e8m0fnu", "float4_e2m1fn_x2",
)  # fmt: skip
_DTYPE_CODES: Final = {name: code for code, name in enumerate(DTYPE_NAMES)}

__all__ = [
    "DTYPE_NAMES",
    "NAMESPACE_BYTES",
    "CacheEngineKey",
    "ChunkMeta",
    "ClientCommand",
    "ClientMetaMessage",
    "KeyLike",
    "LMSMemoryObj",
    "MemoryFormat",
    "OpaqueKey",
    "ServerMetaMessage",
    "ServerReturnCode",
    "described",
    "dtype_name",
    "key_text",
    "namespace_of",
    "over",
    "torch_dtype",
]


class MemoryFormat(enum.Enum):
    """Layout of a chunk's tensor; names and numbers are LMCache's and travel on the wire."""

    UNDEFINED = 0
    KV_2LTD = 1
    KV_T2D = 2
    KV_2TD = 3
    BINARY = 4
    BINARY_BUFFER = 5
    KV_MLA_FMT = 6
    EC_TD = 7
    HS_TD = 8

    __hash__ = object.__hash__  # each is one object; an Enum's own hashes its name, in Python, for every chunk


class ClientCommand(enum.IntEnum):
    """Request codes of the lm:// protocol."""

    PUT = 1
    GET = 2
    EXIST = 3
    LIST = 4
    HEALTH = 5


class ServerReturnCode(enum.IntEnum):
    """Answer codes of the lm:// protocol."""

    SUCCESS = 200
    FAIL = 400


class _Asked:
    """A field that a message made of `ChunkMeta` leaves unset: torch's own, made and kept when it is asked for.

    It is no data descriptor: what a constructor or a caller sets is read as any attribute.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name: Final = name

    def __get__(self, obj: _MadeOfMeta | None, owner: type) -> Any:
        name = self._name
        if obj is None or (meta := obj._meta) is None:  # to a dataclass: the field has no default
            raise AttributeError(f"{owner.__name__!r} object has no attribute {name!r}")
        given = vars(obj)
        if name == "dtype":
            given["dtype"] = torch_dtype(meta.dtype)
        if "shape" not in given:  # who asks for one wants the other next
            given["shape"] = _size(meta.shape)
        return given[name]


class _MadeOfMeta:
    """What may be made of `ChunkMeta`, which it then keeps."""

    _meta: ChunkMeta | None = None

    if not TYPE_CHECKING:  # to a checker they are fields of the dataclasses below
        dtype = _Asked("dtype")
        shape = _Asked("shape")


@dataclass
class ClientMetaMessage(_MadeOfMeta):
    """What a client says of a chunk; the first argument of `put`. LMCache's own objects serve as well."""

    command: ClientCommand
    key: CacheEngineKey
    length: int
    fmt: MemoryFormat
    dtype: Optional[torch.dtype]
    shape: torch.Size
    location: Optional[str] = None


@dataclass
class ServerMetaMessage:
    """What a server says of a chunk."""

    code: ServerReturnCode
    length: int
    fmt: MemoryFormat
    dtype: Optional[torch.dtype]
    shape: torch.Size
    location: Optional[str] = None


@dataclass
class LMSMemoryObj(_MadeOfMeta):
    """A chunk's bytes and metadata, as `get` answers them; `data` is bytes-like, C-contiguous, and never changes."""

    data: bytearray
    length: int
    fmt: MemoryFormat
    dtype: Optional[torch.dtype]
    shape: torch.Size


def described(obj: Any) -> tuple[Any, Sequence[int], str | None]:
    """What a message or memory object says of dtype, shape and namespace.

    Names and plain sizes where torch is not needed yet; no namespace where it is not told, as in `namespace_of`.
    """
    if not isinstance(obj, _MadeOfMeta) or (meta := obj._meta) is None:
        return obj.dtype, obj.shape, None
    given = vars(obj)
    return given.get("dtype", meta.dtype), given.get("shape", meta.shape), meta.namespace


def namespace_of(obj: Any) -> str | None:
    """Digest of the namespace that a chunk was stored with; None where it was stored with none, or it is not told."""
    meta = obj._meta if isinstance(obj, _MadeOfMeta) else None
    return None if meta is None else meta.namespace


def over(obj: LMSMemoryObj, data: Any) -> LMSMemoryObj:
    """`obj` with another buffer of the same bytes."""
    if type(obj) is not LMSMemoryObj:
        return LMSMemoryObj(data, obj.length, obj.fmt, obj.dtype, obj.shape)
    other = _new(LMSMemoryObj)
    vars(other).update(vars(obj), data=data)
    return other


_new: Final = object.__new__

_META: Final = struct.Struct("<BBBBQ")  # form, fmt, dtype, dimensions, length
_DIMENSIONS_AT: Final = 3
#: Forms of stored metadata: without a namespace, and with the digest of one behind the shape.
_PLAIN, _NAMED = 1, 2
_FORMS: Final = "forms 1 and 2"
#: Bytes of a namespace's digest, which `ChunkMeta.namespace` has in hexadecimal.
NAMESPACE_BYTES: Final = 16
_DIGEST: Final = re.compile(rf"[0-9a-f]{{{2 * NAMESPACE_BYTES}}}")


@dataclass(frozen=True, slots=True)
class ChunkMeta:
    """What a backend stores beside a chunk's bytes.

    Attributes
    ----------
    length : int
        Bytes of the chunk.
    fmt : MemoryFormat
    dtype : str or None
        A name of `DTYPE_NAMES`, so that no torch is needed to store or list.
    shape : tuple of int
        0 or more dimensions, kept as given (padding zeros included).
    namespace : str or None
        Digest of the `lms_tiers.namespace.Namespace` that the bytes belong to, in hexadecimal; None: of none.
    """

    length: int
    fmt: MemoryFormat
    dtype: str | None
    shape: tuple[int, ...]
    namespace: str | None = None

    def __eq__(self, other: object) -> bool:
        if self is other:  # nearly always: they are interned
            return True
        if type(other) is not ChunkMeta:
            return NotImplemented
        ours = (self.length, self.fmt, self.dtype, self.shape, self.namespace)
        return ours == (other.length, other.fmt, other.dtype, other.shape, other.namespace)

    @staticmethod
    def of(client_meta: ClientMetaMessage, nbytes: int) -> ChunkMeta:
        """The metadata of a put of `nbytes` bytes.

        Raises
        ------
        InvalidChunkError
            `client_meta.length` differs from `nbytes`, or format, dtype or shape cannot be stored.
        """
        key, fmt = client_meta.key, client_meta.fmt
        if client_meta.length != nbytes:
            raise _invalid(key, f"metadata says {client_meta.length} bytes, {nbytes} were given.")
        if type(fmt) is not MemoryFormat:
            try:
                fmt = MemoryFormat(fmt.value)
            except (AttributeError, ValueError):
                raise _invalid(key, f"format {fmt!r} is not a MemoryFormat.") from None
        dtype, shape, namespace = described(client_meta)
        meta = _valid(nbytes, fmt, dtype, tuple(shape), namespace)
        if isinstance(meta, str):
            raise _invalid(key, meta)
        return meta

    @staticmethod
    def of_obj(key: KeyLike | str, obj: LMSMemoryObj) -> ChunkMeta:
        """What a memory object says of its chunk; the key is for the error.

        Raises
        ------
        InvalidChunkError
            It says what no metadata can.
        """
        meta: ChunkMeta | str | None
        if type(obj) is LMSMemoryObj and (meta := obj._meta) is not None:
            given = vars(obj)
            plain = "dtype" not in given and "shape" not in given
            if plain and obj.length == meta.length and obj.fmt is meta.fmt:
                return meta  # it still says what it was made of, as far as anybody asked
        dtype, shape, namespace = described(obj)
        fmt = obj.fmt if type(obj.fmt) is MemoryFormat else MemoryFormat(obj.fmt.value)
        meta = _valid(obj.length, fmt, dtype, tuple(shape), namespace)
        if isinstance(meta, str):
            raise _invalid(key, meta)
        return meta

    def within(self, namespace: str | None) -> ChunkMeta:
        """The same of a chunk that belongs to a namespace (its digest), or to none."""
        return self if self.namespace == namespace else _within(self, namespace)

    def memory_obj(self, data: Any) -> LMSMemoryObj:
        """`data` with this metadata, as `get` answers it."""
        obj = _new(LMSMemoryObj)
        obj._meta, obj.data, obj.length, obj.fmt = self, data, self.length, self.fmt
        return obj

    def message(self, key: CacheEngineKey) -> ClientMetaMessage:
        """The put message that stores this chunk under `key`."""
        message = _new(ClientMetaMessage)
        message._meta, message.command, message.key = self, ClientCommand.PUT, key
        message.length, message.fmt, message.location = self.length, self.fmt, None
        return message

    def pack(self) -> bytes:
        """The stable binary form (see docs/format.md)."""
        form = _PLAIN if self.namespace is None else _NAMED
        head = _META.pack(form, self.fmt.value, _DTYPE_CODES[self.dtype], len(self.shape), self.length)
        body = head + struct.pack(f"<{len(self.shape)}q", *self.shape)
        return body if self.namespace is None else body + bytes.fromhex(self.namespace)

    @property
    def packed_bytes(self) -> int:
        """How long `pack` is."""
        return _META.size + 8 * len(self.shape) + (0 if self.namespace is None else NAMESPACE_BYTES)

    @staticmethod
    def unpack(data: bytes | memoryview) -> tuple[ChunkMeta, int]:
        """Read the form of `pack`; answers the metadata and how many bytes it took.

        Raises
        ------
        FormatError
            The bytes are not metadata of a form that this version knows.
        """
        try:
            size = _META.size + 8 * data[_DIMENSIONS_AT] + (NAMESPACE_BYTES if data[0] == _NAMED else 0)
        except IndexError:
            raise FormatError("chunk metadata", "damaged bytes", _FORMS) from None
        return _unpacked(bytes(data[:size])), size


@lru_cache(maxsize=4096)  # a store that starts warm reads the same few a million times
def _unpacked(data: bytes) -> ChunkMeta:
    try:
        form, fmt, dtype, ndim, length = _META.unpack_from(data)
        if form not in (_PLAIN, _NAMED):
            raise FormatError("chunk metadata", f"form {form}", _FORMS)
        shape = struct.unpack_from(f"<{ndim}q", data, _META.size)
        namespace = None
        if form == _NAMED:
            (digest,) = struct.unpack_from(f"{NAMESPACE_BYTES}s", data, _META.size + 8 * ndim)
            namespace = digest.hex()
        return _one(ChunkMeta(length, MemoryFormat(fmt), DTYPE_NAMES[dtype], shape, namespace))
    except (struct.error, ValueError, IndexError):
        raise FormatError("chunk metadata", "damaged bytes", _FORMS) from None


@lru_cache(maxsize=4096)
def _within(meta: ChunkMeta, namespace: str | None) -> ChunkMeta:
    if namespace is not None and _DIGEST.fullmatch(namespace) is None:
        raise InvalidChunkError(namespace, f"is no digest of a namespace: {2 * NAMESPACE_BYTES} hexadecimal digits.")
    return _one(replace(meta, namespace=namespace))


@lru_cache(maxsize=4096)  # chunks of one model share one shape: that saves 200 bytes a key and most of the checking
def _valid(
    nbytes: int, fmt: MemoryFormat, dtype: Any, shape: tuple[int, ...], namespace: str | None
) -> ChunkMeta | str:
    name = dtype_name(dtype)
    if name not in _DTYPE_CODES:
        return f"dtype {dtype!r} cannot be stored."
    if len(shape) > 255 or not all(isinstance(d, int) and 0 <= d < 2**63 for d in shape):
        return f"shape {shape!r} must be a sequence of sizes."
    if name != dtype:  # it was torch's own; the text names the same metadata
        return _valid(nbytes, fmt, name, shape, namespace)
    return ChunkMeta(nbytes, fmt, name, shape, namespace)


def _one(meta: ChunkMeta) -> ChunkMeta:
    """The object that equal metadata shares: who compares it finds it to be the same one, at once."""
    found = _valid(meta.length, meta.fmt, meta.dtype, meta.shape, meta.namespace)
    return meta if isinstance(found, str) else found


def _invalid(key: KeyLike | str, why: str) -> InvalidChunkError:
    # The key itself is checked by `key_text`; here it only says which chunk is at fault.
    if not isinstance(key, str):
        key = key.to_string() if hasattr(key, "to_string") else repr(key)
    return InvalidChunkError(key, why)


@lru_cache(maxsize=4096)
def _size(shape: tuple[int, ...]) -> torch.Size:
    import torch

    return torch.Size(shape)


def put_bytes(text: str, data: Any) -> int:
    """Bytes of what is put under `text` (`InvalidChunkError`): a buffer, a tensor or an array."""
    if type(data) is bytearray:
        return len(data)
    nbytes = getattr(data, "nbytes", None)
    if isinstance(nbytes, int):
        return nbytes
    try:
        return memoryview(data).nbytes
    except TypeError:
        raise InvalidChunkError(text, f"{type(data).__name__} offers no bytes.") from None
