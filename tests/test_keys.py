"""Keys: every text survives, LMCache's layouts are understood, and an unusable key is a typed error."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from lms_tiers.errors import InvalidKeyError
from lms_tiers.keys import CacheEngineKey, OpaqueKey, key_text


def test_a_key_writes_lmcaches_layout_with_tags() -> None:
    configs = {"lmcache.tag.user": "u 1", "lmcache.other": 3, "lmcache.tag.level": 2}
    key = CacheEngineKey("org/model", 2, 1, 0xDEADBEEF, torch.bfloat16, configs)
    assert key.to_string() == "org/model@2@1@deadbeef@bfloat16@user%u 1@level%2"
    assert key.tags == (("user", "u 1"), ("level", 2))


def test_a_hash_of_bytes_is_written_in_hexadecimal() -> None:
    assert CacheEngineKey("m", 1, 0, b"\x00\xff", torch.half).to_string() == "m@1@0@00ff@half"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("m@4@3@ab@float", ("m", 4, 3, 0xAB, torch.float32, None, None)),
        ("m@4@3@ab@half@17", ("m", 4, 3, 0xAB, torch.float16, 17, None)),
        ("m@4@3@ab@fp8_e5m2@17@t%v@u%", ("m", 4, 3, 0xAB, torch.float8_e5m2, 17, None)),
        ("vllm@m@4@3@ab", ("m", 4, 3, 0xAB, None, None, "vllm")),
        ("vllm@m@4@3@ab@t%v", ("m", 4, 3, 0xAB, None, None, "vllm")),
        ("m@with@at@4@3@ab@bfloat16", ("m@with@at", 4, 3, 0xAB, torch.bfloat16, None, None)),
    ],
)
def test_known_layouts_are_parsed_and_written_back_unchanged(text: str, fields: tuple[object, ...]) -> None:
    key = CacheEngineKey.from_string(text)
    found = (key.model_name, key.world_size, key.worker_id, key.chunk_hash, key.dtype, key.layer_id, key.fmt)
    assert found == fields
    assert key.to_string() == text


@given(st.text(min_size=1))
@example("m@1@0@0ab@half")
@example("m@1@00@ab@half@007")
@example("@@@@")
def test_any_text_survives_parsing_pickling_and_comparing(text: str) -> None:
    key = CacheEngineKey.from_string(text)
    assert key.to_string() == text
    assert pickle.loads(pickle.dumps(key)) == key
    assert hash(key) == hash(OpaqueKey(text))
    assert key == OpaqueKey(text)


def test_keys_differ_by_bytes_not_by_meaning() -> None:
    composed, decomposed = OpaqueKey("caf\u00e9"), OpaqueKey("cafe\u0301")
    assert composed != decomposed
    assert OpaqueKey("A") != OpaqueKey("a")
    assert OpaqueKey("a") != "a"


def test_a_dtype_without_a_key_name_is_refused() -> None:
    with pytest.raises(InvalidKeyError, match="complex64"):
        CacheEngineKey("m", 1, 0, 1, torch.complex64)


MARKS = ("@", "%", "\n", "\0", "\x1f", "\x7f", "\x85")


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("model_name", {"model_name": "m{}1"}),
        ("world_size", {"world_size": "1{}0"}),
        ("worker_id", {"worker_id": "1{}0"}),
        ("lmcache.tag.salt", {"request_configs": {"lmcache.tag.tenant": "b", "lmcache.tag.salt": "x{}"}}),
        ("lmcache.tag.{}t", {"request_configs": {"lmcache.tag.tenant": "b", "lmcache.tag.{}t": "b"}}),
    ],
)
def test_a_field_of_a_key_that_is_built_holds_no_mark_of_the_layout(
    field: str, changes: dict[str, Any], mark: str
) -> None:
    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {filled(k): filled(v) for k, v in value.items()}
        return value.format(mark)

    fields: dict[str, Any] = {"model_name": "m", "world_size": 1, "worker_id": 0, "chunk_hash": 1}
    with pytest.raises(InvalidKeyError) as caught:
        CacheEngineKey(dtype=torch.half, **{**fields, **filled(changes)})
    assert caught.value.field == field.format(mark)
    assert repr(caught.value.field) in str(caught.value)


def test_a_tags_value_cannot_stand_for_another_tag() -> None:
    honest = CacheEngineKey("m", 1, 0, 1, torch.half, {"lmcache.tag.salt": "x", "lmcache.tag.tenant": "b"})
    with pytest.raises(InvalidKeyError, match=r"lmcache\.tag\.salt"):
        CacheEngineKey("m", 1, 0, 1, torch.half, {"lmcache.tag.salt": "x@tenant%b"})
    assert CacheEngineKey.from_string(honest.to_string()).tags == honest.tags


_FIELD = st.text(max_size=6)


@given(model=_FIELD, tags=st.dictionaries(_FIELD, _FIELD, max_size=3))
@example(model="é/\u2028", tags={"": "", "ключ": "\xa0"})
def test_keys_that_are_built_have_one_text_only_where_their_fields_agree(model: str, tags: dict[str, str]) -> None:
    configs = {f"lmcache.tag.{k}": v for k, v in tags.items()}
    if any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "@%" for c in "".join([model, *tags, *tags.values()])):
        with pytest.raises(InvalidKeyError, match="which no field of a key may"):
            CacheEngineKey(model, 1, 0, 1, torch.half, configs)
        return
    key = CacheEngineKey(model, 1, 0, 1, torch.half, configs)
    head, *rest = key.to_string().split("@1@0@1@half")[0], *key.to_string().split("@")[5:]
    assert head == model
    assert dict(tag.split("%") for tag in rest) == tags


def test_text_from_elsewhere_keeps_every_mark() -> None:
    for mark in MARKS:
        text = f"m{mark}1@1@0@1f@half@salt%x{mark}y"
        assert CacheEngineKey.from_string(text).to_string() == text


class Duck:
    def __init__(self, answer: object) -> None:
        self.answer = answer

    def to_string(self) -> object:
        return self.answer


@pytest.mark.parametrize("answer", ["", None, b"bytes", 7, "lone \ud800 surrogate"])
def test_a_key_without_usable_text_is_a_typed_error(answer: object) -> None:
    with pytest.raises(InvalidKeyError):
        key_text(Duck(answer))  # type: ignore[arg-type]


def test_an_object_without_to_string_is_a_typed_error() -> None:
    with pytest.raises(InvalidKeyError, match="to_string"):
        key_text("text")  # type: ignore[arg-type]


def test_the_limit_counts_bytes_of_utf8_and_nothing_is_truncated() -> None:
    assert key_text(OpaqueKey("é" * 5), max_bytes=10) == "é" * 5
    with pytest.raises(InvalidKeyError, match="11 bytes"):
        key_text(OpaqueKey("é" * 5 + "x"), max_bytes=10)
