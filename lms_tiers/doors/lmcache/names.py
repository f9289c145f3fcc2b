"""LMCache's object keys as keys of this project and back, and what an object is as a chunk's metadata.

Both by attribute: nothing of LMCache is imported here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lms_tiers.errors import InvalidKeyError
from lms_tiers.keys import KeyLike
from lms_tiers.messages import DTYPE_NAMES, ChunkMeta, MemoryFormat, OpaqueKey
from lms_tiers.namespace import Namespace, Value, digest_of

#: How objects of LMCache's multi-process mode are kept here; another way would be another namespace.
_LAYOUT: Final = "object-1"

#: What LMCache's own file tier calls its files, without the escapes of a file system.
_TEXT: Final = re.compile(
    r"[0-9a-f]{32}:(?P<model>[^@]*)@0x(?P<rank>[0-9a-f]{8,})@(?P<group>[0-9a-f]+)@(?P<hash>[0-9a-f]*)(?:@(?P<salt>.+))?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class ObjectName:
    """The fields of an object key of LMCache's, as they stand in a key's text."""

    chunk_hash: bytes
    model_name: str
    kv_rank: int
    object_group_id: int
    cache_salt: str


class Names:
    """Keys of this project for LMCache's, in one namespace a model.

    Parameters
    ----------
    revision : str
        Of the models served: LMCache's keys leave it out.
    free : mapping
        Whatever else the bytes depend on that LMCache's keys leave out.

    Examples
    --------
    >>> names = Names()
    >>> name = ObjectName(b"\\x1f", "llama/8b", 0x01000100, 0, "")
    >>> names.key(name).to_string().partition(":")[2]
    'llama/8b@0x01000100@0@1f'
    >>> names.parsed(names.key(name).to_string()) == name
    True
    >>> Names(revision="other").parsed(names.key(name).to_string()) is None
    True
    """

    def __init__(self, revision: str = "", free: Mapping[str, Value] | None = None) -> None:
        self._revision: Final = revision
        self._free: Final = dict(free or {})
        self._prefixes: Final[dict[str, str]] = {}

    def key(self, name: Any) -> OpaqueKey:
        """The key of an object key of LMCache's (or an `ObjectName`).

        Raises
        ------
        InvalidKeyError
            The model's name holds ``@``.
        """
        model, salt = name.model_name, name.cache_salt
        text = f"{self._prefix(model)}{model}@{name.kv_rank:#010x}@{name.object_group_id:x}@{name.chunk_hash.hex()}"
        if "@" in model:
            raise InvalidKeyError(text, "has '@' in the model's name: LMCache sets its fields apart by it.")
        return OpaqueKey(f"{text}@{salt}" if salt else text)

    def parsed(self, text: str) -> ObjectName | None:
        """The fields of a key's text; None for one that is not of these namespaces."""
        found = _TEXT.fullmatch(text)
        if found is None or not text.startswith(self._prefix(found["model"])):
            return None
        try:
            chunk_hash = bytes.fromhex(found["hash"])
        except ValueError:
            return None
        return ObjectName(
            chunk_hash, found["model"], int(found["rank"], 16), int(found["group"], 16), found["salt"] or ""
        )

    def _prefix(self, model: str) -> str:
        prefix = self._prefixes.get(model)
        if prefix is None:
            space = Namespace(model=model, revision=self._revision, layout=_LAYOUT, engine="lmcache", free=self._free)
            # One a model that is served; whoever lists a shared place meets names of others.
            if len(self._prefixes) < 1024:
                self._prefixes[model] = space.prefix
            return space.prefix
        return prefix


def layout_meta(length: int, fmt: int, shapes: Sequence[Sequence[int]], dtypes: Sequence[Any]) -> ChunkMeta:
    """An object's metadata as a chunk's: `length` bytes in memory format `fmt`.

    One group of layers is its dtype and shape. Several (hybrid models), or a dtype that has no name here, are a digest
    of all dtypes and shapes in the place of the shape: no two layouts are taken for each other.
    """
    names = [str(dtype).removeprefix("torch.") for dtype in dtypes]
    sizes = [tuple(map(int, shape)) for shape in shapes]
    if len(names) == 1 and len(sizes) == 1 and names[0] in DTYPE_NAMES:
        return ChunkMeta(length, MemoryFormat(fmt), names[0], sizes[0])
    digest = hashlib.blake2b(repr((names, sizes)).encode(), digest_size=16).digest()
    halves = (int.from_bytes(digest[:8], "big") >> 1, int.from_bytes(digest[8:], "big") >> 1)
    return ChunkMeta(length, MemoryFormat.BINARY, None, (len(sizes), *halves))


def object_meta(key: KeyLike, obj: Any, length: int) -> ChunkMeta:
    """The metadata of one of LMCache's memory objects of `length` bytes, in the namespace of its key."""
    return layout_meta(length, obj.get_memory_format().value, *_groups(obj)).within(digest_of(key))


def _groups(obj: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    meta = obj.metadata
    if meta.shapes and meta.dtypes:
        return meta.shapes, meta.dtypes
    return [meta.shape], [meta.dtype]


def contradicts(meta: ChunkMeta, key: KeyLike, layout: Any) -> bool:
    """Whether a chunk cannot be what LMCache looks for under `key`: an object of `layout` (a `MemoryLayoutDesc`).

    A layout without shapes says nothing. A chunk that is a run of bytes is one that LMCache encoded (its `serde`): what
    it will be decoded to only LMCache knows.
    """
    if meta.namespace != digest_of(key):
        return True
    if layout is None or not layout.shapes or (meta.dtype == "uint8" and len(meta.shape) == 1):
        return False
    wanted = layout_meta(meta.length, meta.fmt.value, layout.shapes, layout.dtypes)
    return (wanted.dtype, wanted.shape) != (meta.dtype, meta.shape)
