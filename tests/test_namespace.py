"""Namespaces: one digest for what is equal, another for whatever differs, and keys that tell."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lms_tiers import CreateStorageBackend, LMSLocalBackend, MemoryFormat, OpaqueKey
from lms_tiers.client import Client
from lms_tiers.errors import InvalidKeyError
from lms_tiers.messages import CacheEngineKey, ChunkMeta
from lms_tiers.namespace import Namespace, digest_of
from lms_tiers.server.server import Server
from lms_tiers.server.settings import ServerSettings

OURS = Namespace(model="llama", revision="a1", dtype="bfloat16", layout="NHD", tensor_size=2, tensor_rank=1)

#: Each differs from `OURS` in one thing that engines leave out of their keys.
OTHERS: list[dict[str, Any]] = [
    {"model": "llama2"}, {"revision": "a2"}, {"dtype": "float16"}, {"layout": "HND"}, {"tensor_size": 4},
    {"tensor_rank": 0}, {"pipeline_size": 2}, {"pipeline_rank": 1}, {"engine": "vllm"}, {"free": {"block": 16}},
    {"free": {"block": "16"}}, {"free": {"block": None}}, {"free": {"block": True}}, {"free": {"": 16}},
]  # fmt: skip

TEXT = st.text(max_size=12)
RECORDS = st.builds(
    Namespace, model=TEXT, revision=TEXT, dtype=TEXT, layout=TEXT, engine=TEXT, tensor_size=st.integers(1, 64),
    free=st.dictionaries(TEXT, st.one_of(TEXT, st.integers(), st.booleans(), st.none()), max_size=3),
)  # fmt: skip


def test_whatever_differs_is_another_namespace() -> None:
    digests = {OURS.digest, *(replace(OURS, **other).digest for other in OTHERS)}
    assert len(digests) == len(OTHERS) + 1


@given(RECORDS, RECORDS)
def test_digests_are_equal_where_records_are(one: Namespace, other: Namespace) -> None:
    same = one.canonical() == other.canonical()
    assert (one.digest == other.digest) is same
    assert replace(one).digest == one.digest


def test_the_digest_is_the_same_in_every_version_of_this_package() -> None:
    assert OURS.digest == "1ff2cfdf67b4bf412d7c9963c9ebce11"


def test_the_order_of_free_fields_does_not_matter_and_they_are_the_records_own() -> None:
    given_fields: dict[str, Any] = {"b": 1, "a": "x"}
    one, other = Namespace(model="m", free=given_fields), Namespace(model="m", free={"a": "x", "b": 1})
    given_fields["c"] = 2
    assert one == other
    assert hash(one) == hash(other)
    assert one.digest == other.digest
    with pytest.raises(TypeError):
        one.free["d"] = 1  # type: ignore[index]  # what is frozen says so
    with pytest.raises(FrozenInstanceError):
        one.model = "n"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(one)) == one


@pytest.mark.parametrize("value", [1.5, b"x", ["x"], OURS])
def test_a_free_field_is_a_plain_value(value: Any) -> None:
    with pytest.raises(InvalidKeyError, match="must be text"):
        Namespace(model="m", free={"x": value})


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_a_key_tells_its_namespace_and_the_engines_own_text(text: str) -> None:
    key = OURS.key(text)
    again = CacheEngineKey.from_string(key.to_string())
    other = replace(OURS, dtype="float16")
    assert OURS.holds(again)
    assert OURS.own(again) == text
    assert digest_of(again) == OURS.digest
    assert not other.holds(again)
    assert other.own(again) is None
    assert len(key.to_string().encode()) == 33 + len(text.encode())


def test_a_key_without_a_prefix_is_of_no_namespace() -> None:
    for text in ("m@1@0@1f@bfloat16", "a", f"{OURS.digest}", f"x{OURS.prefix}a", f"{OURS.digest.upper()}:a"):
        key = CacheEngineKey.from_string(text)
        assert not OURS.holds(key)
        assert digest_of(key) is None
    with pytest.raises(InvalidKeyError):
        OURS.key("")


def test_the_digest_kept_with_a_chunk_decides() -> None:
    assert OURS.matches(OURS.digest)
    assert not OURS.matches(None)
    assert not OURS.matches(replace(OURS, revision="a2").digest)


def test_engines_that_differ_do_not_see_each_others_chunks() -> None:
    theirs = replace(OURS, dtype="float16")
    with LMSLocalBackend() as backend:
        backend.put(ChunkMeta(2, MemoryFormat.KV_2LTD, "bfloat16", (1,)).message(OURS.key("1f")), bytearray(b"ab"))
        assert backend.get(theirs.key("1f")) is None
        assert backend.get(OURS.key("1f")) is not None


def test_the_digest_is_kept_with_the_chunk_over_restarts_and_the_wire(tmp_path: Path) -> None:
    device = f"store > lmdb:{tmp_path}/kv?capacity=8MiB"
    theirs = replace(OURS, dtype="float16")
    meta = ChunkMeta(2, MemoryFormat.KV_2LTD, "bfloat16", (1,))
    with CreateStorageBackend(device) as store:
        store.put(meta.message(OURS.key("1f")), bytearray(b"ab"))
        store.flush(60)
    settings = ServerSettings(port=0)
    with CreateStorageBackend(device) as store, Server(store, settings) as server, Client(server.address) as client:
        for held in (store, client):
            (info,) = held.scan()
            assert digest_of(info.key) == OURS.digest
            assert OURS.own(info.key) == "1f"
            assert held.contains_many([OURS.key("1f"), theirs.key("1f"), OpaqueKey("1f")]) == [True, False, False]
            assert held.get(theirs.key("1f")) is None
