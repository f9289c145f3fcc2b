"""Device texts: read, written back, and refused with a word on what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lms_tiers.device import DeviceSpec, TierSpec, parse_device
from lms_tiers.errors import ConfigError
from lms_tiers.sizes import format_size, parse_duration, parse_size


def test_a_chain_of_tiers_is_read_fastest_first() -> None:
    spec = parse_device(
        "gpu:0?capacity=8GiB&policy=hazard > pinned?capacity=1.5 GiB > lmdb:/data/k v?capacity=1TiB&codec=zstd:3&write=through"
    )
    assert spec.tiers == (
        TierSpec("gpu", "0", 8 * 2**30, "hazard"),
        TierSpec("pinned", "", 3 * 2**29),
        TierSpec("lmdb", "/data/k v", 2**40, None, "through", {"codec": "zstd:3"}),
    )


@given(
    st.lists(
        st.builds(
            TierSpec,
            st.from_regex(r"[a-z0-9][a-z0-9_-]{0,5}", fullmatch=True),
            st.text("/ab c>?&%:=é#", max_size=8).map(str.strip),
            st.none() | st.integers(1, 2**50),
            st.none() | st.just("lru"),
            st.sampled_from(["back", "through"]),
            st.dictionaries(st.sampled_from(["codec", "sync"]), st.text("xy>?&%=:", max_size=5)),
            st.sampled_from(["hits", "never"]),
        ).filter(lambda tier: tier.name != "store"),
        min_size=1,
        max_size=4,
    ),
    st.none() | st.dictionaries(st.sampled_from(["stall", "queue_bytes"]), st.text("5ms>?&%=:", max_size=5)),
)
def test_what_is_written_is_read_back(tiers: list[TierSpec], store: dict[str, str] | None) -> None:
    spec = DeviceSpec(tuple(tiers), store)
    assert parse_device(spec.text) == spec


def test_options_of_the_store_stand_before_its_tiers() -> None:
    spec = parse_device(" store ? read_deadline=500ms&queue_bytes=8MiB > cpu?capacity=1MiB&promote=never > cpu")
    assert spec.store == {"read_deadline": "500ms", "queue_bytes": "8MiB"}
    assert spec.tiers == (TierSpec("cpu", "", 2**20, promote="never"), TierSpec("cpu"))
    assert spec.text == "store?read_deadline=500ms&queue_bytes=8MiB > cpu?capacity=1048576B&promote=never > cpu"
    assert parse_device(str(spec)) == spec
    assert parse_device("store > cpu") == DeviceSpec((TierSpec("cpu"),), {})
    assert parse_device("cpu").store is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a device is a text"),
        ("cpu > > lmdb:/x", "an empty tier beside '>'"),
        ("cpu > ", "an empty tier beside '>'"),
        ("CPU", "not a backend's name"),
        ("cpu?capacity=4", "has no unit"),
        ("cpu?capacity=-4GiB", "negative"),
        ("cpu?capacity=4QiB", "unknown unit"),
        ("cpu?capacity=lots", "not a number"),
        ("cpu?capacity=0B", "holds nothing"),
        ("cpu?capacity", "option=value"),
        ("cpu?", "option=value"),
        ("cpu?capacity=1B&capacity=2B", "stands twice"),
        ("cpu?write=thru", "Did you mean 'through'"),
        ("cpu?promote=nver", "Did you mean 'never'"),
        ("store", "a store needs a tier"),
        ("store?stall=1s", "a store needs a tier"),
        ("store:/data > cpu", "no location"),
        ("store?stall > cpu", "option=value"),
        ("store?stall=1s&stall=2s > cpu", "stands twice"),
        ("cpu > store?stall=1s", "before the first tier"),
        ("store > store > cpu", "before the first tier"),
        ("cpu > lm:x?deadline=3", "has no unit"),
        ("cpu > lm:x?deadline=0s", "no time at all"),
        ("cpu > lm:x?revalidate=soon", "number with a unit"),
        ("nowhere/at/all.toml", "cannot be read"),
    ],
)
def test_a_text_that_is_wrong_says_how(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_device(text)


def test_a_toml_file_holds_the_same_fields(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    path.write_text(
        '[[tier]]\nname = "cpu"\ncapacity = "4GiB"\npolicy = "arc"\n'
        '[[tier]]\nname = "lmdb"\nlocation = "/data?x"\ncapacity = "1TiB"\nwrite = "through"\n[tier.options]\nsync = "none"\n'
    )
    assert parse_device(str(path)).tiers == (
        TierSpec("cpu", "", 4 * 2**30, "arc"),
        TierSpec("lmdb", "/data?x", 2**40, None, "through", {"sync": "none"}),
    )


def test_a_toml_file_may_hold_options_of_the_store(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    path.write_text(
        '[store]\nread_deadline = "500ms"\nbreaker_threshold = 3\n[[tier]]\nname = "cpu"\npromote = "never"\n'
    )
    assert parse_device(str(path)) == DeviceSpec(
        (TierSpec("cpu", promote="never"),), {"read_deadline": "500ms", "breaker_threshold": 3}
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("tier = 3", r"\[\[tier\]\]"),
        ("", r"\[\[tier\]\]"),
        ("[[tier]\n", "not valid TOML"),
        ('[[tier]]\nname="cpu"\ncapasity="1GiB"', "Did you mean 'capacity'"),
        ('[[tier]]\nname="cpu"\ncapacity=5', "no unit"),
        ('[[tier]]\nname="cpu"\noptions=5', "a table"),
        ('[[tier]]\nlocation="x"', "not a backend's name"),
        ('[[tier]]\nname="cpu"\n[stor]\nx=1', "Did you mean 'store'"),
        ('store=1\n[[tier]]\nname="cpu"', "a table"),
        ('[[tier]]\nname="store"', "before the first tier"),
        ('[[tier]]\nname="cpu"\npromote="nver"', "Did you mean 'never'"),
    ],
)
def test_a_toml_file_that_is_wrong_says_how(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "device.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=says):
        parse_device(str(path))


@pytest.mark.parametrize(
    ("text", "size"), [("1B", 1), ("64KiB", 65536), ("1.5MiB", 3 * 2**19), (" 2 GB ", 2 * 10**9), ("1tib", 2**40)]
)
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@given(st.integers(0, 2**60))
def test_sizes_are_shown_within_one_percent(size: int) -> None:
    shown = parse_size(format_size(size))
    assert abs(shown - size) <= size / 100


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("0.25s", 0.25), (" 2 min ", 120.0), ("1h", 3600.0), ("0s", 0.0), ("1.5S", 1.5)],
)
def test_durations_are_read_with_their_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "says"), [("5", "has no unit"), ("-1s", "negative"), ("5 weeks", "unknown unit"), ("soon", "not a number")]
)
def test_a_duration_that_is_wrong_says_how(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_duration(text)


@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9), st.sampled_from([None, "back", "through"]))
def test_options_of_a_shared_tier_are_read_back_as_they_were_written(
    deadline: float, revalidate: float, write: Any
) -> None:
    spec = TierSpec("lm", "host:65432", None, None, write, {"timeout": "3"}, "hits", deadline, revalidate)
    assert parse_device(f"cpu?capacity=1KiB > {spec.text}").tiers[1] == spec
