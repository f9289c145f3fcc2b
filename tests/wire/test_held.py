"""HELD: many keys in one question, a bit for each in the answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lms_tiers.errors import InvalidKeyError, ProtocolError
from lms_tiers.wire import extension, held, plain
from lms_tiers.wire.extension import XCommand

KEYS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=400)
SIZE = plain.CLIENT_HEADER.size


@given(st.lists(KEYS, max_size=30), st.booleans())
def test_a_question_survives_the_round_trip(keys: list[str], leading: bool) -> None:
    header, body, asked = held.encode_held(keys, leading=leading)
    request = extension.decode_xrequest(header)
    assert len(header) == SIZE
    assert (request.command, request.length, request.argument) == (XCommand.HELD, len(body), leading)
    assert asked == len(keys)
    assert held.decode_asked(body) == keys


def test_a_question_takes_as_many_keys_as_fit() -> None:
    keys = ["k" * 60_000] * 30
    _, body, asked = held.encode_held(keys, leading=False)
    assert len(body) <= extension.MAX_ASK_BYTES
    assert 0 < asked < 30
    assert held.decode_asked(body) == keys[:asked]


@given(st.binary(max_size=100))
def test_any_body_is_keys_or_a_typed_error(body: bytes) -> None:
    try:
        held.decode_asked(body)
    except InvalidKeyError:
        return


@given(st.lists(st.booleans(), max_size=100))
def test_the_answers_survive_the_round_trip(bits: list[bool]) -> None:
    assert held.decode_bits(held.encode_bits(bits), len(bits)) == bits


def test_answers_to_another_number_of_questions_are_refused() -> None:
    with pytest.raises(ProtocolError, match="questions"):
        held.decode_bits(b"ab", 8)


def test_a_question_that_is_too_long_ends_the_connection() -> None:
    header = extension.encode_xrequest(XCommand.HELD, length=extension.MAX_ASK_BYTES + 1)
    with pytest.raises(ProtocolError, match="HELD"):
        extension.decode_xrequest(header)


@given(
    st.lists(KEYS, max_size=30),
    st.text(st.characters(blacklist_categories=["Cs"]), max_size=300),
    st.integers(0, 3_600_000),
)
def test_leases_asked_for_survive_the_round_trip(keys: list[str], holder: str, milliseconds: int) -> None:
    header, body, asked = held.encode_pin(keys, holder=holder, milliseconds=milliseconds)
    request = extension.decode_xrequest(header[:SIZE])
    assert (request.command, request.length, request.argument) == (XCommand.PIN, len(body), milliseconds)
    assert extension.decode_xnames(request, header[SIZE:]) == (holder, None)
    assert asked == len(keys)
    assert held.decode_asked(body) == keys


@pytest.mark.parametrize(
    "fields",
    [{"length": extension.MAX_ASK_BYTES + 1}, {"argument": -1}, {"argument": 3_600_001}, {"key": "x" * 1025}],
)
def test_a_lease_beyond_all_bounds_ends_the_connection(fields: dict[str, Any]) -> None:
    header = extension.encode_xrequest(XCommand.PIN, **fields)[:SIZE]
    with pytest.raises(ProtocolError, match="PIN"):
        extension.decode_xrequest(header)
