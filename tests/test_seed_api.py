"""The seed's API, exactly: LMCache's names, parameters and annotations."""

from __future__ import annotations

import inspect
from typing import List, Optional

import pytest
import torch

import lms_tiers
from lms_tiers import (
    CacheEngineKey,
    ClientCommand,
    ClientMetaMessage,
    CreateStorageBackend,
    LMSBackendInterface,
    LMSLocalBackend,
    LMSMemoryObj,
    MemoryFormat,
)

NAMESPACE = {"torch": torch, "Optional": Optional, "List": List}


def signature(function: object) -> inspect.Signature:
    module = inspect.getmodule(function)
    return inspect.signature(function, globals={**vars(module), **NAMESPACE}, eval_str=True)  # type: ignore[arg-type]


def parameters(function: object) -> dict[str, object]:
    return {p.name: p.annotation for p in signature(function).parameters.values()}


SELF = inspect.Parameter.empty


@pytest.mark.parametrize("owner", [LMSBackendInterface, LMSLocalBackend])
@pytest.mark.parametrize(
    ("method", "expected", "returns"),
    [
        ("put", {"client_meta": ClientMetaMessage, "kv_chunk_bytes": bytearray}, None),
        ("contains", {"key": CacheEngineKey}, bool),
        ("get", {"key": CacheEngineKey}, Optional[LMSMemoryObj]),
        ("list_keys", {}, List[CacheEngineKey]),
        ("close", {}, None),
        ("remove", {"key": CacheEngineKey}, None),
    ],
)
def test_backend_methods_have_the_seeds_signatures(
    owner: type, method: str, expected: dict[str, object], returns: object
) -> None:
    function = getattr(owner, method)
    assert parameters(function) == {"self": SELF, **expected}
    assert signature(function).return_annotation == returns


def test_exactly_the_seeds_five_methods_are_abstract() -> None:
    assert LMSBackendInterface.__abstractmethods__ == {"put", "contains", "get", "list_keys", "close"}


def test_the_local_backend_is_made_without_arguments() -> None:
    assert parameters(LMSLocalBackend.__init__) == {"self": SELF}


def test_the_factory_takes_a_device_text() -> None:
    given = dict(signature(CreateStorageBackend).parameters)
    observer = given.pop("on_events")  # the seed has none: it is left out by name
    assert observer.kind is observer.KEYWORD_ONLY
    assert observer.default is None
    assert {name: parameter.annotation for name, parameter in given.items()} == {"device": str}
    assert signature(CreateStorageBackend).return_annotation is LMSBackendInterface


@pytest.mark.parametrize(
    ("cls", "names", "defaults"),
    [
        (
            CacheEngineKey,
            ["model_name", "world_size", "worker_id", "chunk_hash", "dtype", "request_configs"],
            {"request_configs": None},
        ),
        (
            ClientMetaMessage,
            ["command", "key", "length", "fmt", "dtype", "shape", "location"],
            {"location": None},
        ),
        (LMSMemoryObj, ["data", "length", "fmt", "dtype", "shape"], {}),
    ],
)
def test_constructors_take_what_lmcache_0_5_6_takes(cls: type, names: list[str], defaults: dict[str, object]) -> None:
    found = inspect.signature(cls).parameters
    assert list(found) == names
    assert {n: p.default for n, p in found.items() if p.default is not inspect.Parameter.empty} == defaults


def test_message_annotations_are_the_seeds() -> None:
    assert parameters(ClientMetaMessage.__init__) == {
        "self": SELF,
        "command": ClientCommand,
        "key": CacheEngineKey,
        "length": int,
        "fmt": MemoryFormat,
        "dtype": Optional[torch.dtype],
        "shape": torch.Size,
        "location": Optional[str],
    }
    assert parameters(LMSMemoryObj.__init__) == {
        "self": SELF,
        "data": bytearray,
        "length": int,
        "fmt": MemoryFormat,
        "dtype": Optional[torch.dtype],
        "shape": torch.Size,
    }
    assert parameters(CacheEngineKey.__init__) == {
        "self": SELF,
        "model_name": str,
        "world_size": int,
        "worker_id": int,
        "chunk_hash": int,
        "dtype": torch.dtype,
        "request_configs": Optional[dict],
    }


def test_memory_format_numbers_are_the_wires() -> None:
    assert [f.name for f in sorted(MemoryFormat, key=lambda f: f.value)] == [
        "UNDEFINED", "KV_2LTD", "KV_T2D", "KV_2TD", "BINARY", "BINARY_BUFFER", "KV_MLA_FMT", "EC_TD", "HS_TD",
    ]  # fmt: skip
    assert [f.value for f in MemoryFormat] == list(range(9))


def test_cpu_is_the_local_backend() -> None:
    with CreateStorageBackend("cpu") as backend:
        assert type(backend) is LMSLocalBackend


def test_the_public_names_are_sorted_and_all_there() -> None:
    assert lms_tiers.__all__ == sorted(lms_tiers.__all__)
    for name in lms_tiers.__all__:
        assert getattr(lms_tiers, name) is not None
