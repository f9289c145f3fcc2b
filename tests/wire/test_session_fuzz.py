"""Hypothesis feeds whole sessions: valid frames, damaged ones and noise, cut into pieces of any size."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.memory import DictBackend, run_session
from tests.server.peer import FAIL, GET, PUT, SUCCESS, header

KEYS = st.sampled_from(["a", "b", "c@d"])
BODIES = st.binary(max_size=300)


def put(key: str, body: bytes) -> bytes:
    return header(PUT, key, len(body), 1, 6, (len(body), 0, 0, 0)) + body


def damaged(frame: bytes, at: int, bit: int) -> bytes:
    out = bytearray(frame)
    out[at % len(out)] ^= 1 << bit
    return bytes(out)


FRAMES = st.one_of(
    st.builds(put, KEYS, BODIES),
    st.builds(header, st.integers(2, 5), KEYS),
    st.builds(damaged, st.builds(put, KEYS, BODIES), st.integers(0, 400), st.integers(0, 7)),
    st.builds(lambda c, n: header(c, "a", n), st.integers(-2, 80), st.integers(-10, 5000)),
    st.binary(max_size=200),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(FRAMES, max_size=12), st.integers(1, 700))
def test_any_bytes_in_any_pieces_end_a_session_cleanly(frames: list[bytes], piece: int) -> None:
    run_session(b"".join(frames), piece)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), KEYS, BODIES), max_size=20), st.integers(1, 700), st.data())
def test_valid_frames_behave_like_a_dictionary_however_they_are_cut(
    steps: list[tuple[bool, str, bytes]], piece: int, data: st.DataObject
) -> None:
    model: dict[str, bytes] = {}
    sent = expected = b""
    for store, key, body in steps:
        if store:
            sent += put(key, body)
            model[key] = body
        else:
            sent += header(GET, key)
            held = model.get(key)
            code = FAIL if held is None else SUCCESS
            shape = (0, 0, 0, 0) if held is None else (len(held), 0, 0, 0)
            expected += struct.pack("<9i", code, len(held or b""), 1, 2 if held is None else 6, *shape, 0) + (
                held or b""
            )
    backend = DictBackend()
    cut = data.draw(st.integers(0, len(sent)), "cut") if data.draw(st.booleans(), "truncated") else len(sent)
    stream = run_session(sent[:cut], piece, backend)
    assert expected.startswith(bytes(stream.sent))
    if cut == len(sent):
        assert bytes(stream.sent) == expected
        assert {k: v[0] for k, v in backend.chunks.items()} == model
