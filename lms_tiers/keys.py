"""Keys: LMCache's key layouts parsed, everything else kept as opaque text; and the dtype names they carry.

A key's identity is its canonical text, compared byte for byte. Nothing here knows chunks or backends.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Optional, Protocol

from lms_tiers.errors import FormatError, InvalidKeyError

if TYPE_CHECKING:
    import torch

#: dtype names inside key texts, as LMCache writes them.
_KEY_DTYPES: Final = {
    "half": "float16", "bfloat16": "bfloat16", "float": "float32", "double": "float64", "int8": "int8",
    "uint8": "uint8", "int16": "int16", "int32": "int32", "int64": "int64", "bool": "bool",
    "fp8_e4m3fn": "float8_e4m3fn", "fp8_e4m3fnuz": "float8_e4m3fnuz", "fp8_e5m2": "float8_e5m2",
    "fp8_e5m2fnuz": "float8_e5m2fnuz",
}  # fmt: skip
_KEY_DTYPE_OF: Final = {v: k for k, v in _KEY_DTYPES.items()}

_KEY_TEXT: Final = re.compile(
    r"(?P<model>.+)@(?P<world>\d+)@(?P<worker>\d+)@(?P<hash>-?[0-9a-f]+)@(?P<dtype>"
    + "|".join(sorted(_KEY_DTYPES, key=len, reverse=True))
    + r")(?:@(?P<layer>\d+))?(?P<tags>(?:@[^@%]+%[^@]*)*)",
    re.DOTALL,
)
_OLD_KEY_TEXT: Final = re.compile(
    r"(?P<fmt>[^@]+)@(?P<model>.+)@(?P<world>\d+)@(?P<worker>\d+)@(?P<hash>-?[0-9a-f]+)"
    r"(?P<tags>(?:@[^@%]+%[^@]*)*)",
    re.DOTALL,
)
_TAG: Final = "lmcache.tag."
#: What sets the fields of a key's text apart, and control characters: no field of a key built here holds one.
_MARKS: Final = re.compile(r"[@%\x00-\x1f\x7f-\x9f]")


def dtype_name(dtype: torch.dtype | None) -> str | None:
    """The name of a torch dtype, without importing torch: ``torch.bfloat16`` → ``"bfloat16"``."""
    return None if dtype is None else str(dtype).removeprefix("torch.")


@lru_cache(maxsize=64)
def torch_dtype(name: str | None) -> torch.dtype | None:
    """The torch dtype of a stored name; the inverse of `dtype_name`.

    Raises
    ------
    FormatError
        This torch has no such dtype, an older one than wrote it; the bytes can be had all the same.
    """
    if name is None:
        return None
    import torch

    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise FormatError("chunk metadata", f"the dtype {name!r}", f"those of torch {torch.__version__}")
    return dtype


def _checked(text: str, field: str, value: str) -> None:
    """Raise `InvalidKeyError` where a field's text could be taken for that of another field."""
    if found := _MARKS.search(value):
        raise InvalidKeyError(
            text, f"{field!r} holds {found[0]!r}, which no field of a key may: choose another value.", field=field
        )


@lru_cache(maxsize=256, typed=True)  # the keys of one engine begin alike, and 1, True and "1" do not
def _beginning(model_name: str, world_size: int, worker_id: int) -> str:
    text = f"{model_name}@{world_size}@{worker_id}@"
    for field, value in (("model_name", model_name), ("world_size", world_size), ("worker_id", worker_id)):
        _checked(text, field, str(value))
    return text


def _tagged(text: str, tags: tuple[tuple[str, Any], ...]) -> str:
    """The tags as they stand in the text of a key that begins with `text`."""
    end = "".join([f"@{k}%{v}" for k, v in tags])
    # Three looks at the whole; which field is at fault is found out only where one is.
    if end.count("@") != len(tags) or end.count("%") != len(tags) or not end.isprintable():
        for tag, value in tags:
            _checked(text + end, _TAG + tag, tag)
            _checked(text + end, _TAG + tag, str(value))
    return text + end


class KeyLike(Protocol):
    """Anything with LMCache's `to_string`; identity is that text, compared byte for byte."""

    def to_string(self) -> str: ...  # noqa: D102


def _hex(chunk_hash: int | bytes) -> str:
    # LMCache annotates int and passes bytes as well.
    return chunk_hash.hex() if isinstance(chunk_hash, bytes) else f"{chunk_hash:x}"


class CacheEngineKey:
    """Key of one KV chunk, with LMCache 0.5.6's constructor and text layouts.

    Two keys are equal when their canonical texts are. `from_string` parses the current layout, the layer layout, the
    layout before 0.3.10, and keeps every other text as an `OpaqueKey`: no text is an error, none is changed.

    Parameters
    ----------
    model_name : str
    world_size, worker_id : int
    chunk_hash : int or bytes
        Written in hexadecimal.
    dtype : torch.dtype
    request_configs : dict, optional
        Entries named ``lmcache.tag.*`` become part of the key.

    Raises
    ------
    InvalidKeyError
        `dtype` has no name in key texts, or a field holds ``@``, ``%`` or a control character: its text could be that
        of another key.

    Examples
    --------
    >>> CacheEngineKey.from_string("m@1@0@1f@bfloat16").chunk_hash
    31
    >>> CacheEngineKey.from_string("anything at all").to_string()
    'anything at all'
    """

    __slots__ = (
        "_dtype_name", "_text", "chunk_hash", "fmt", "layer_id", "model_name", "request_configs", "tags",
        "worker_id", "world_size",
    )  # fmt: skip

    def __init__(
        self,
        model_name: str,
        world_size: int,
        worker_id: int,
        chunk_hash: int,
        dtype: torch.dtype,
        request_configs: Optional[dict] = None,  # type: ignore[type-arg]  # LMCache's annotation
    ) -> None:
        name = dtype_name(dtype)
        if name not in _KEY_DTYPE_OF:
            raise InvalidKeyError(str(model_name), f"dtype {dtype} has no name in key texts.")
        text = f"{_beginning(model_name, world_size, worker_id)}{_hex(chunk_hash)}@{_KEY_DTYPE_OF[name]}"
        tags: tuple[tuple[str, Any], ...] = ()
        if request_configs:
            tags = tuple((k[len(_TAG) :], v) for k, v in request_configs.items() if k.startswith(_TAG))
            text = _tagged(text, tags)
        self._fill(text, model_name, world_size, worker_id, chunk_hash, name, request_configs, tags or None)

    def _fill(
        self, text: str, model: str, world: int, worker: int, chunk_hash: int, dtype: str | None,
        configs: dict[str, Any] | None, tags: tuple[tuple[str, Any], ...] | None,
        layer_id: int | None = None, fmt: str | None = None,
    ) -> None:  # fmt: skip
        self._text = text
        self.model_name = model
        self.world_size = world
        self.worker_id = worker
        self.chunk_hash = chunk_hash
        self._dtype_name = dtype
        self.request_configs = configs
        self.tags = tags
        self.layer_id = layer_id
        self.fmt = fmt

    @property
    def dtype(self) -> torch.dtype | None:
        """The chunk's dtype; None where the key's layout does not tell."""
        return torch_dtype(self._dtype_name)

    @property
    def chunk_hash_hex(self) -> str:
        """The chunk's hash as it stands in the key's text."""
        return _hex(self.chunk_hash)

    def to_string(self) -> str:
        """The canonical text: the key's identity."""
        return self._text

    @staticmethod
    def from_string(s: str) -> CacheEngineKey:
        """Parse a key's text; ``from_string(s).to_string() == s`` for every `s`."""
        if match := _KEY_TEXT.fullmatch(s):
            dtype = _KEY_DTYPES[match["dtype"]]
        elif match := _OLD_KEY_TEXT.fullmatch(s):
            dtype = None
        else:
            return OpaqueKey(s)
        groups = match.groupdict()
        tags = tuple(tuple(tag.split("%", 1)) for tag in groups["tags"].split("@")[1:])
        layer = groups.get("layer")
        key = CacheEngineKey.__new__(CacheEngineKey)
        key._fill(
            s, groups["model"], int(groups["world"]), int(groups["worker"]), int(groups["hash"], 16), dtype,
            {_TAG + k: v for k, v in tags} or None, tags or None,
            int(layer) if layer else None, groups.get("fmt"),
        )  # fmt: skip
        return key

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, CacheEngineKey) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._text!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return CacheEngineKey.from_string, (self._text,)


class OpaqueKey(CacheEngineKey):
    """A key whose text this version does not parse; it is stored and compared like any other."""

    __slots__ = ()

    # Nothing is known of it but its text: the fields are those of the class, and a key is made at no cost.
    world_size = worker_id = chunk_hash = 0
    _dtype_name = request_configs = tags = layer_id = fmt = None

    def __init__(self, text: str) -> None:
        self._text = text

    @property
    def model_name(self) -> str:  # type: ignore[override]
        """The whole text."""
        return self._text

    def __reduce__(self) -> tuple[Any, ...]:
        return OpaqueKey, (self._text,)


def key_text(key: KeyLike, max_bytes: int | None = None) -> str:
    """The canonical text of `key`, checked.

    Parameters
    ----------
    key : object with ``to_string()``
        This project's or LMCache's own key.
    max_bytes : int, optional
        The longest UTF-8 encoding the backend takes.

    Raises
    ------
    InvalidKeyError
        No text, an empty one, one that has no UTF-8 encoding (a lone surrogate), or one that is too long. A key is
        never truncated or normalised.
    """
    try:
        text = key.to_string()
    except AttributeError:
        raise InvalidKeyError(repr(key), "a key needs a to_string() method, as CacheEngineKey has.") from None
    if type(text) is not str or not text:
        raise InvalidKeyError(repr(text), "to_string() must return a text that is not empty.")
    if not text.isascii():
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise InvalidKeyError(ascii(text), f"has no UTF-8 encoding: {error.reason}.") from None
    else:
        size = len(text)
    if max_bytes is not None and size > max_bytes:
        raise InvalidKeyError(text, f"is {size} bytes long; at most {max_bytes} are taken.")
    return text
