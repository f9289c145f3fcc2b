"""Errors: one small taxonomy, each with its fault as attributes, each surviving a pickle."""

from __future__ import annotations

import inspect
import pickle

import pytest

from lms_tiers import errors
from lms_tiers.errors import LmsTiersError

SAMPLES: dict[str, tuple[object, ...]] = {
    "ConfigError": ("bad.",),
    "PluginError": ("mine", "broke"),
    "PluginConflictError": ("mine", ["a 1", "b 2"]),
    "BackendClosedError": ("cpu",),
    "ForkedProcessError": ("lmdb",),
    "UnsupportedError": ("cpu", "remove"),
    "InvalidKeyError": ("key", "is bad"),
    "InvalidChunkError": ("key", "is bad"),
    "InvalidBufferError": ("small",),
    "ValueTooLargeError": ("key", 5, 4, "the store"),
    "CapacityError": ("cpu", 5, 4),
    "StorageUnavailableError": ("/x", "not writable"),
    "StorageFullError": ("/x", "no space left"),
    "OutcomeUnknownError": ("lm://there:1", "put", "no answer came."),
    "StorageLockedError": ("/x", "process 7"),
    "FormatError": ("/x", "version 2", "version 1"),
    "DeadlineExceededError": ("flush", 0.5),
    "PolicyError": ("lru", "raised."),
    "TraceError": ("t.jsonl", 3, "not JSON"),
    "ProtocolError": ("127.0.0.1", "bad header"),
    "CodecError": ("planes", "damaged"),
    "DeviceMemoryError": ("gpu cuda:0", 5, 4),
}
CLASSES = [
    c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, LmsTiersError) and c is not LmsTiersError
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_every_error_survives_a_pickle_with_text_and_attributes(cls: type[LmsTiersError]) -> None:
    error = cls(*SAMPLES[cls.__name__])  # type: ignore[arg-type]  # each class has its own signature
    error.add_note("kept outside the pickle")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert str(copy) == str(error)
    assert str(error)
    public = {k: v for k, v in vars(error).items() if not k.startswith("_")}
    assert {k: v for k, v in vars(copy).items() if not k.startswith("_")} == public


def test_an_unknown_name_lists_the_known_and_suggests_the_nearest() -> None:
    error = errors.ConfigError("no backend 'lmbd'.", unknown="lmbd", known=["lmdb", "cpu"])
    assert error.nearest == "lmdb"
    assert error.known == ("cpu", "lmdb")
    assert "Did you mean 'lmdb'?" in str(error)


def test_a_deadline_is_a_timeout_and_a_sick_medium_an_os_error_to_whoever_catches_those() -> None:
    assert isinstance(errors.DeadlineExceededError("flush", 1), TimeoutError)
    assert isinstance(errors.StorageUnavailableError("/x", "gone"), OSError)
    assert str(errors.StorageUnavailableError("/x", "gone")) == "/x: gone"
