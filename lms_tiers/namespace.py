"""What the bytes of a KV chunk depend on beside its tokens, as one record whose digest leads the keys of an adapter.

Keys of engines leave out dtype, revision, layout or topology; two engines that differ in one of them must not read each
other's chunks; `lms_tiers.namespaced` sees to that for a backend. Nothing here knows engines or backends.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final

from lms_tiers.errors import InvalidKeyError
from lms_tiers.keys import KeyLike, OpaqueKey

#: Form of the canonical text; part of it, so that another form is another namespace.
_FORM: Final = 1
_DIGEST_BYTES: Final = 16
#: Of a key: the digest in hexadecimal and a colon.
PREFIX_BYTES: Final = 2 * _DIGEST_BYTES + 1
#: A prefix: the digest in hexadecimal, set apart from the engine's own text.
_PREFIX: Final = re.compile(rf"([0-9a-f]{{{2 * _DIGEST_BYTES}}}):")

Value = str | int | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """A model as it runs somewhere: chunks of one namespace are good for each other, others are misses.

    Attributes
    ----------
    model, revision : str
        As the engine calls them; a revision that is not known is ``""``.
    dtype : str
        Of the cache, as in `lms_tiers.messages.DTYPE_NAMES`.
    layout : str
        How an engine lays a chunk out: its own name for it.
    tensor_size, tensor_rank, pipeline_size, pipeline_rank : int
        Topology, and this worker's place in it; a chunk that all ranks share has the same rank everywhere.
    engine : str
        Which engine made the bytes, and the version where that matters.
    free : mapping of str to str, int, bool or None
        Whatever else the bytes depend on: block size, quantisation, adapters (LoRA), a tenant's salt.

    Examples
    --------
    >>> ours = Namespace(model="llama", dtype="bfloat16")
    >>> ours.holds(ours.key("1f"))
    True
    >>> Namespace(model="llama", dtype="float16").holds(ours.key("1f"))
    False
    """

    model: str
    revision: str = ""
    dtype: str = ""
    layout: str = ""
    tensor_size: int = 1
    tensor_rank: int = 0
    pipeline_size: int = 1
    pipeline_rank: int = 0
    engine: str = ""
    free: Mapping[str, Value] = field(default_factory=dict)
    digest: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "free", MappingProxyType(dict(self.free)))
        digest = hashlib.blake2b(self.canonical().encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES)
        object.__setattr__(self, "digest", digest.hexdigest())

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[Any, ...]:
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return _rebuilt, ({**named, "free": dict(self.free)},)

    def canonical(self) -> str:
        """The record as one text: equal records have equal texts, records that differ in any field do not.

        Raises
        ------
        InvalidKeyError
            A value of `free` is of another type than those named above.
        """
        for name, value in self.free.items():
            if not isinstance(name, str) or not (value is None or type(value) in (str, int, bool)):
                raise InvalidKeyError(
                    str(name), f"is a field of a namespace and must be text, int, bool or None, not {value!r}."
                )
        parts = {
            "form": _FORM, "model": self.model, "revision": self.revision, "dtype": self.dtype, "layout": self.layout,
            "tensor": [self.tensor_size, self.tensor_rank], "pipeline": [self.pipeline_size, self.pipeline_rank],
            "engine": self.engine, "free": dict(self.free),
        }  # fmt: skip
        return json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))

    @property
    def prefix(self) -> str:
        """What every key of this namespace begins with: 33 bytes, the digest and a colon."""
        return f"{self.digest}:"

    def key(self, text: str) -> OpaqueKey:
        """The key of an engine's own key text, which may be any text but the empty one.

        Raises
        ------
        InvalidKeyError
            The text is empty.
        """
        if not text:
            raise InvalidKeyError(text, "is empty.")
        return OpaqueKey(self.prefix + text)

    def own(self, key: KeyLike) -> str | None:
        """The engine's own text of a key of this namespace; None where the key is of another, or of none."""
        text = key.to_string()
        return text[len(self.prefix) :] if self.holds(key) else None

    def holds(self, key: KeyLike) -> bool:
        """Whether a key is of this namespace."""
        return key.to_string().startswith(self.prefix)

    def matches(self, digest: str | None) -> bool:
        """Whether the digest that is kept with a chunk is this one's; a chunk without one, or another's, is a miss."""
        return digest == self.digest


def _rebuilt(named: dict[str, Any]) -> Namespace:
    return Namespace(**named)


def digest_of(key: KeyLike) -> str | None:
    """The digest that a key begins with; None where it has no prefix."""
    found = _PREFIX.match(key.to_string())
    return None if found is None else found[1]
