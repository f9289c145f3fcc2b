"""From a device text to storage: what opens, what is refused, and that nothing half-open is left behind."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic
import pytest

from lms_tiers import BackendSpec, Capabilities, CreateStorageBackend, LMSLocalBackend
from lms_tiers.device import parse_device
from lms_tiers.errors import ConfigError, LmsTiersError, PluginError
from lms_tiers.factory import open_device
from lms_tiers.options import Options, Size, StoreOptions
from lms_tiers.registry import Registry
from lms_tiers.tiered.store import TieredStore


class ShelfOptions(Options):
    part: Size = 4096
    mode: str = "plain"


class Shelf(LMSLocalBackend):
    opened: list[Shelf] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self.opened.append(self)

    def close(self) -> None:
        super().close()
        self.closed = True


class NoRemove(Shelf):
    capabilities = Capabilities()


class Future(Shelf):
    capabilities = replace(LMSLocalBackend.capabilities, contract="2.0")


def broken(location: str, capacity: int | None, options: Any) -> LMSLocalBackend:
    raise RuntimeError("cable unplugged")


@pytest.fixture
def registry() -> Registry:
    registry = Registry({}, [])
    source = registry.plugins[0]

    def add(name: str, factory: Any, options: Any = None) -> None:
        spec = BackendSpec(name=name, factory=factory, options=options)
        registry.backends._specs[name] = spec

    assert source.state == "ok"
    add("shelf", lambda location, capacity, options: Shelf(), ShelfOptions)
    add("noremove", lambda location, capacity, options: NoRemove())
    add("future", lambda location, capacity, options: Future())
    add("broken", broken)
    add("wrong", lambda location, capacity, options: object())
    add("missing", "no.such.module:attr")
    Shelf.opened.clear()
    return registry


Open = Callable[[str], Any]


@pytest.fixture
def open_text(registry: Registry) -> Open:
    return lambda text: open_device(parse_device(text), registry)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("shelv", ConfigError, "Did you mean 'shelf'"),
        ("shelf?capacity=1MiB&policy=lur", ConfigError, "Did you mean 'lru'"),
        ("shelf?prat=4KiB", ConfigError, "Did you mean 'part'"),
        ("shelf?part=4", ConfigError, "no unit"),
        ("cpu?anything=1", ConfigError, "no option 'anything'"),
        ("shelf > shelf?capacity=1MiB", ConfigError, "no capacity"),
        ("shelf?capacity=1MiB > noremove?capacity=1MiB", ConfigError, "cannot remove"),
        ("shelf?capacity=1MiB&policy=opt", ConfigError, "future"),
        ("store?stal=1s > shelf", ConfigError, "Did you mean 'stall'"),
        ("store?stall=1 > shelf", ConfigError, "option stall = '1': .*no unit"),
        ("store?queue_bytes=7 > shelf", ConfigError, "option queue_bytes = '7': .*no unit"),
        ("store?stall=0s > shelf", ConfigError, "option stall = '0s': .*greater than 0"),
        ("store?breaker_threshold=0 > shelf", ConfigError, "option breaker_threshold = '0'"),
        ("store?breaker_cooldown=2min > shelf", ConfigError, "breaker_longest"),
        ("store?close_timeout=9000h > shelf", ConfigError, "option close_timeout"),
        ("future", PluginError, "contract 2.0"),
        ("broken", PluginError, "cable unplugged"),
        ("wrong", PluginError, "returned object"),
        ("missing", PluginError, "cannot be imported"),
    ],
)
def test_what_cannot_be_opened_is_a_typed_error_and_leaves_nothing_open(
    open_text: Open, text: str, error: type[LmsTiersError], says: str
) -> None:
    with pytest.raises(error, match=says):
        open_text(text)
    assert all(shelf.closed for shelf in Shelf.opened)


def test_the_tiers_opened_before_a_failure_are_closed(open_text: Open) -> None:
    with pytest.raises(PluginError, match="cable"):
        open_text("shelf?capacity=1MiB > shelf?capacity=2MiB > broken?capacity=3MiB")
    assert [shelf.closed for shelf in Shelf.opened] == [True, True]


def test_a_typing_error_in_the_last_tier_opens_none(open_text: Open) -> None:
    with pytest.raises(ConfigError):
        open_text("shelf?capacity=1MiB > shlef?capacity=2MiB")
    assert Shelf.opened == []


def test_one_tier_without_tier_options_is_the_bare_backend(open_text: Open) -> None:
    with open_text("shelf?part=8KiB") as backend:
        assert type(backend) is Shelf


def test_a_capacity_makes_a_store_that_closes_its_backend(open_text: Open) -> None:
    with open_text("shelf?capacity=1MiB > shelf?capacity=2MiB") as store:
        assert type(store) is not Shelf
        assert [t.name for t in store.stats().tiers] == ["shelf", "shelf#2"]
        assert [t.capacity_bytes for t in store.stats().tiers] == [2**20, 2**21]
    assert [shelf.closed for shelf in Shelf.opened] == [True, True]


def test_options_of_the_store_reach_it(monkeypatch: pytest.MonkeyPatch, open_text: Open) -> None:
    given: list[dict[str, Any]] = []
    make = TieredStore.__init__

    def noted(self: TieredStore, tiers: Any, **options: Any) -> None:
        given.append(options)
        make(self, tiers, **options)

    monkeypatch.setattr(TieredStore, "__init__", noted)
    with open_text(
        "store?read_deadline=500ms&close_timeout=2min&queue_bytes=1KiB&breaker_threshold=3&back_pressure=0s"
        " > shelf?capacity=1MiB&promote=never > shelf"
    ) as store:
        assert [tier.rises for tier in store._h.tiers] == [False, True]
    (options,) = given
    assert {name: options[name] for name in ("read_deadline", "close_timeout", "queue_bytes", "breaker_threshold")} == {
        "read_deadline": 0.5, "close_timeout": 120.0, "queue_bytes": 1024, "breaker_threshold": 3,
    }  # fmt: skip
    assert options["back_pressure"] == 0.0
    assert options["stall"] == 2.0


def test_the_store_s_options_have_its_own_defaults() -> None:
    parameters = inspect.signature(TieredStore).parameters
    assert set(StoreOptions.model_fields) == set(parameters) - {"tiers", "on_events", "clock"}
    for name, field in StoreOptions.model_fields.items():
        assert field.default == parameters[name].default, name


def test_a_store_may_be_asked_for_over_one_bare_tier(open_text: Open) -> None:
    with open_text("store > shelf") as store:
        assert isinstance(store, TieredStore)
        assert [(t.name, t.capacity_bytes) for t in store.stats().tiers] == [("shelf", None)]


def test_a_number_without_a_unit_is_refused_in_toml(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    for option in ("stall = 5", "queue_bytes = 5", "read_deadline = 0.5"):
        path.write_text(f'[store]\n{option}\n[[tier]]\nname = "cpu"\n')
        with pytest.raises(ConfigError, match="no unit"):
            CreateStorageBackend(str(path))


def test_a_toml_device_opens_like_its_text(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    path.write_text('[[tier]]\nname = "cpu"\ncapacity = "1MiB"\n[[tier]]\nname = "cpu"\ncapacity = "2MiB"\n')
    with CreateStorageBackend(str(path)) as store:
        assert [t.capacity_bytes for t in store.stats().tiers] == [2**20, 2**21]  # type: ignore[attr-defined]


def test_an_options_model_need_not_be_ours() -> None:
    class Plain(pydantic.BaseModel):
        depth: int = 1

    from lms_tiers.options import parse_options

    assert parse_options(Plain, "x", {"depth": "3"}).depth == 3
    with pytest.raises(ConfigError, match="option depth = 'deep'"):
        parse_options(Plain, "x", {"depth": "deep"})
