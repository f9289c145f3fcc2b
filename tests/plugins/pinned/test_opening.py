"""`pinned`: tensors, device texts, and what listing the plugin imports."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lms_tiers.errors import (
    ConfigError,
    StorageUnavailableError,
    UnsupportedError,
)
from lms_tiers.messages import ClientCommand, ClientMetaMessage, MemoryFormat
from lms_tiers.plugins.pinned.backend import PinnedBackend
from tests.plugins.arena_chunks import key, message, open_text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e5m2, torch.float32, torch.bool, torch.complex64])
def test_tensors_keep_dtype_shape_and_every_bit(pinned: PinnedBackend, dtype: torch.dtype) -> None:
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (2, 3, 4 * dtype.itemsize), dtype=torch.uint8)
    tensor = raw.view(dtype)
    strided = tensor.transpose(0, 1)
    meta = ClientMetaMessage(ClientCommand.PUT, key("t"), raw.numel(), MemoryFormat.KV_2LTD, dtype, strided.shape)
    expected = strided.contiguous().view(torch.uint8).numpy().tobytes()
    pinned.put_tensor(meta, strided)
    raw.zero_()
    found = pinned.get_tensor(key("t"))
    assert found is not None
    assert (found.dtype, found.shape) == (dtype, strided.shape)
    assert found.view(torch.uint8).numpy().tobytes() == expected
    out = torch.empty_like(found)
    assert pinned.get_tensor(key("t"), out) is out
    assert out.view(torch.uint8).numpy().tobytes() == expected


def test_metadata_that_makes_no_tensor_of_the_bytes_gives_the_bytes(pinned: PinnedBackend) -> None:
    for name, length, dtype, size in (("a", 6, None, 9), ("b", 6, torch.float32, 2), ("c", 8, torch.float32, 5)):
        meta = ClientMetaMessage(ClientCommand.PUT, key(name), length, MemoryFormat.BINARY, dtype, torch.Size([size]))
        pinned.put(meta, bytearray(length))
    for name, shape in (("a", (6,)), ("b", (6,)), ("c", (2,))):
        found = pinned.get_tensor(key(name))
        assert found is not None
        assert found.shape == shape


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("pinned", "needs a capacity"),
        ("pinned?capacity=4095B", "less than a page"),
        ("pinned:somewhere?capacity=1MiB", "has no location"),
        ("pinned?capacity=1MiB&page=5000B", "power of two"),
        ("pinned?capacity=1MiB&pin=maybe", "pin"),
        ("pinned?capacity=1MiB&pagge=4KiB", "page"),
    ],
)
def test_a_device_text_that_does_not_work_says_why(device: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        open_text(device)


def test_pin_require_needs_an_accelerator() -> None:
    if torch.cuda.is_available():
        with open_text("pinned?capacity=4MiB&pin=require") as backend:
            assert backend.stats().detail["page_locked"] == 1
    else:
        with pytest.raises(StorageUnavailableError, match="pin=auto"):
            open_text("pinned?capacity=4MiB&pin=require")


def test_options_reach_the_backend() -> None:
    with open_text("pinned?capacity=1MiB&page=16KiB&pin=off&prefault=true&recycle=0B&threads=3") as backend:
        detail = backend.stats().detail
        assert (detail["page_bytes"], detail["copy_threads"], detail["page_locked"]) == (16384, 3, 0)
        backend.put(message("k", 40_000), bytearray(40_000))
        backend.get(key("k"))
        gc.collect()
        assert backend.stats().detail["recycle_idle_bytes"] == 0


def test_what_it_declares_is_what_it_does(pinned: PinnedBackend) -> None:
    assert pinned.capabilities.remove
    assert pinned.capabilities.tensors
    assert not pinned.capabilities.persistent
    pinned.flush()
    assert pinned.load_state() is None
    assert isinstance(UnsupportedError("x", "y"), Exception)


def test_listing_the_plugin_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, lms_tiers.plugins.pinned, lms_tiers.plugins.gpu\n"
        "heavy = {'torch', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
