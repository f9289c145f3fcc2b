"""Keys: every text survives, LMCache's layouts are understood, and an unusable key is a typed error."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from lms_tiers.errors import InvalidKeyError
from lms_tiers.keys import CacheEngineKey, OpaqueKey, key_text


def test_a_key_writes_lmcaches_layout_with_tags() -> None:
    configs = {"lmcache.tag.user": "u%1", "lmcache.other": 3}
    key = CacheEngineKey("org/model", 2, 1, 0xDEADBEEF, torch.bfloat16, configs)
    assert key.to_string() == "org/model@2@1@deadbeef@bfloat16@user%u%1"
    assert key.tags == (("user", "u%1"),)


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
