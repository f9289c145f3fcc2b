"""Every chunk comes back, alone and from a store, and damage is a typed error."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lms_tiers import ClientCommand, ClientMetaMessage, CreateStorageBackend, MemoryFormat, OpaqueKey
from lms_tiers.codecs.base import decode_into
from lms_tiers.errors import CodecError
from lms_tiers_keptcodec.codec import open_codec

CODEC = open_codec("")
CHUNKS = st.binary(max_size=3000).flatmap(lambda data: st.integers(1, 400).map(lambda times: data * times))


@given(CHUNKS)
def test_a_chunk_comes_back(data: bytes) -> None:
    chunk = CODEC.encode(memoryview(data), "bfloat16")
    out = bytearray(len(data))
    decode_into(chunk.layout, chunk.block_bytes, chunk.blocks, memoryview(out), codec=CODEC)
    assert out == data


@given(CHUNKS.filter(len), st.data())
def test_a_damaged_block_is_a_typed_error_or_another_chunk_of_the_same_length(data: bytes, draw: st.DataObject) -> None:
    chunk = CODEC.encode(memoryview(data), None)
    block = bytearray(chunk.blocks[0])
    block[draw.draw(st.integers(0, len(block) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    blocks = [bytes(block[: draw.draw(st.integers(0, len(block)))]), *chunk.blocks[1:]]
    out = bytearray(len(data))
    try:
        decode_into(chunk.layout, chunk.block_bytes, blocks, memoryview(out), codec=CODEC)
    except CodecError:
        pass


def test_a_foreign_layout_is_refused() -> None:
    with pytest.raises(CodecError):
        CODEC.open("keptcodec/999")


def test_a_store_keeps_chunks_with_it_over_a_restart(tmp_path: Path) -> None:
    device = f"lmdb:{tmp_path}/chunks?capacity=64MiB&codec=keptcodec"
    data = bytes(range(256)) * 1000
    key = OpaqueKey("key")
    meta = ClientMetaMessage(ClientCommand.PUT, key, len(data), MemoryFormat.BINARY, torch.uint8, torch.Size([len(data)]))
    with CreateStorageBackend(device) as store:
        store.put(meta, bytearray(data))
        store.flush()
    with CreateStorageBackend(device) as store:
        found = store.get(key)
        assert found is not None
        assert bytes(found.data) == data
