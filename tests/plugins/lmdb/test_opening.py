"""Opening an LMDB store: what is refused, with what word, and that what was refused lies there untouched."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lms_tiers import ClientCommand, ClientMetaMessage, CreateStorageBackend, MemoryFormat, OpaqueKey
from lms_tiers.errors import (
    BackendClosedError,
    ConfigError,
    ForkedProcessError,
    FormatError,
    InvalidKeyError,
    StorageLockedError,
    StorageUnavailableError,
    ValueTooLargeError,
)

KEY = OpaqueKey("k")


def message(length: int, key: str = "k") -> ClientMetaMessage:
    return ClientMetaMessage(
        ClientCommand.PUT, OpaqueKey(key), length, MemoryFormat.BINARY, torch.uint8, torch.Size([length])
    )


def device(path: Path, capacity: str = "16MiB") -> str:
    return f"lmdb:{path}/kv?capacity={capacity}"


HOLD = """
import sys
from lms_tiers import CreateStorageBackend
with CreateStorageBackend(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.leaks_allowed
def test_a_store_that_another_process_holds_is_refused_and_goes_on(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, device(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StorageLockedError) as caught:
            CreateStorageBackend(device(tmp_path))
        assert str(tmp_path) in caught.value.where
        holder.communicate("")
    assert holder.returncode == 0
    with CreateStorageBackend(device(tmp_path)) as store:
        store.put(message(3), bytearray(b"abc"))


def test_a_store_open_in_this_process_is_refused_a_second_time(tmp_path: Path) -> None:
    with CreateStorageBackend(device(tmp_path)) as store:
        store.put(message(3), bytearray(b"abc"))
        with pytest.raises(StorageLockedError):
            CreateStorageBackend(device(tmp_path))
        found = store.get(KEY)
        assert found is not None
        assert found.data == b"abc"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_lock_call_that_fails_names_its_cause_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fails(fd: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", fails)
        with pytest.raises(StorageUnavailableError, match=os.strerror(number)) as caught:
            CreateStorageBackend(device(tmp_path))
    assert not isinstance(caught.value, StorageLockedError)
    assert not list(tmp_path.iterdir())
    with CreateStorageBackend(device(tmp_path)) as store:
        store.put(message(3), bytearray(b"abc"))


def test_a_directory_that_holds_another_lmdb_file_is_refused_untouched(tmp_path: Path) -> None:
    import lmdb

    home = tmp_path / "kv"
    home.mkdir()
    with lmdb.open(str(home), map_size=1 << 20) as env, env.begin(write=True) as txn:
        txn.put(b"somebody", b"else's")
    before = (home / "data.mdb").read_bytes()
    with pytest.raises(FormatError, match="left untouched"):
        CreateStorageBackend(device(tmp_path))
    assert (home / "data.mdb").read_bytes() == before


def test_a_place_that_is_no_directory_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "kv").write_text("a file")
    with pytest.raises(FormatError, match="plain file"):
        CreateStorageBackend(device(tmp_path))
    assert (tmp_path / "kv").read_text() == "a file"


def test_without_a_capacity_it_says_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="capacity"):
        CreateStorageBackend(f"lmdb:{tmp_path}/kv")


def test_a_key_or_a_chunk_over_the_limit_changes_nothing(tmp_path: Path) -> None:
    with CreateStorageBackend(device(tmp_path)) as store:
        store.put(message(3), bytearray(b"abc"))
        with pytest.raises(InvalidKeyError):
            store.put(message(3, "k" * 100_000), bytearray(b"xyz"))
        with pytest.raises(ValueTooLargeError):
            store.put(message(32 << 20), bytearray(32 << 20))
        assert store.list_keys() == [KEY]
        found = store.get(KEY)
        assert found is not None
        assert found.data == b"abc"


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = CreateStorageBackend(device(tmp_path))
    store.close()
    for call in (lambda: store.get(KEY), store.list_keys, lambda: store.put(message(1), bytearray(1)), store.flush):
        with pytest.raises(BackendClosedError):
            call()


def test_a_forked_child_is_refused_and_the_parent_goes_on(tmp_path: Path) -> None:
    with CreateStorageBackend(device(tmp_path)) as store:
        store.put(message(3), bytearray(b"abc"))
        child = os.fork()
        if child == 0:
            try:
                store.get(KEY)
            except ForkedProcessError:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        found = store.get(KEY)
        assert found is not None
        assert found.data == b"abc"
