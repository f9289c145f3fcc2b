"""The plugin host: every fault of a plugin is a status with its reason, never the end of the host."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lms_tiers.errors import ConfigError, PluginConflictError, PluginError
from lms_tiers.registry import BUILTINS, PluginStatus, Registry

Install = Callable[..., None]

GOOD = """
from lms_tiers import BackendSpec, hookimpl

@hookimpl
def register_backends(register):
    register(BackendSpec(name="NAME", factory="nowhere:missing"))
"""


class Site:
    """Distributions in a folder of their own, as pip would lay them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def install(
        self, distribution: str, module: str, source: str, entry: str | None = None, version: str = "1.0"
    ) -> None:
        (self.path / f"{module}.py").write_text(textwrap.dedent(source))
        info = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[lms_tiers]\n{entry or module} = {module}\n")

    def registry(self, **environ: str) -> Registry:
        found = importlib.metadata.distributions(path=[str(self.path)])
        points = [e for d in found for e in d.entry_points if e.group == "lms_tiers"]
        return Registry({f"LMS_TIERS_{k}": v for k, v in environ.items()}, points)

    def status(self, name: str, **environ: str) -> PluginStatus:
        return next(s for s in self.registry(**environ).plugins if s.name == name)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield Site(tmp_path)
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def test_built_ins_come_first_and_all_work(site: Site) -> None:
    site.install("aaa", "aaa", GOOD.replace("NAME", "aaa"))
    plugins = site.registry().plugins
    assert [p.name for p in plugins[: len(BUILTINS)]] == list(BUILTINS)
    assert {p.name: p.error for p in plugins if p.state != "ok"} == {}


def test_an_outside_plugin_is_found_with_distribution_and_version(site: Site) -> None:
    site.install("my-plugin", "mine", GOOD.replace("NAME", "shelf"), version="2.5")
    status = site.status("mine")
    assert (status.distribution, status.version, status.state) == ("my-plugin", "2.5", "ok")
    assert status.registers == {"backends": ["shelf"]}
    assert site.registry().backends["shelf"].name == "shelf"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import nothing_like_this", "nothing_like_this"),
        ("raise SystemExit(3)", "SystemExit"),
        ("x = (", "SyntaxError"),
        ("", "implements no hook"),
        (GOOD.replace("def register_backends", "def register_backend"), "Did you mean 'register_backends'"),
        (
            "import pluggy\nhookimpl = pluggy.HookimplMarker('lms-tiers')\n@hookimpl\ndef register_backends(register): ...",
            "marked for 'lms-tiers'",
        ),
        (GOOD.replace("(register)", "(*, register)"), "keyword-only"),
        (GOOD.replace("def reg", "async def reg"), "async"),
        (GOOD.replace("(register):", "(register, colour):"), "colour"),
        (
            GOOD.replace("@hookimpl", "@hookimpl(wrapper=True)").replace("    register(", "    yield register("),
            "wrapper",
        ),
        (GOOD.replace("BackendSpec(", "dict("), "takes a BackendSpec"),
        (GOOD.replace("NAME", "Upper"), "not a name"),
        (GOOD.replace("NAME", "store"), "no backend can be called 'store'"),
        (GOOD + "    raise RuntimeError('half-way')", "half-way"),
    ],
)
def test_a_faulty_plugin_is_a_status_and_the_others_work(site: Site, source: str, says: str) -> None:
    site.install("bad-plugin", "bad", source.replace("NAME", "bad"))
    site.install("good-plugin", "good", GOOD.replace("NAME", "good"))
    registry = site.registry()
    status = next(s for s in registry.plugins if s.name == "bad")
    assert status.state == "broken"
    assert says in (status.error or "")
    assert status.trace
    assert "good" in registry.backends
    assert "cpu" in registry.backends
    assert "bad" not in registry.backends


def test_an_extra_argument_with_a_default_is_accepted(site: Site) -> None:
    site.install("next", "later", GOOD.replace("NAME", "later").replace("(register):", "(register, since=None):"))
    assert site.status("later").state == "ok"


def test_strict_mode_raises_for_the_first_faulty_plugin(site: Site) -> None:
    site.install("bad-plugin", "bad", "raise ImportError('gone')")
    with pytest.raises(PluginError, match="gone"):
        site.registry(STRICT="1")
    assert site.registry(STRICT="0")


def test_two_distributions_with_one_entry_point_name_are_both_named(site: Site) -> None:
    site.install("first", "one", GOOD.replace("NAME", "x"), entry="same_name")
    site.install("second", "two", GOOD.replace("NAME", "y"), entry="same-name")
    statuses = [s for s in site.registry().plugins if s.distribution in ("first", "second")]
    assert [s.state for s in statuses] == ["conflict", "conflict"]
    assert all("first 1.0" in (s.error or "") and "second 1.0" in (s.error or "") for s in statuses)


def test_two_plugins_claiming_one_backend_get_neither_and_the_error_names_both(site: Site) -> None:
    site.install("first", "one", GOOD.replace("NAME", "shelf"))
    site.install("second", "two", GOOD.replace("NAME", "shelf"))
    site.install("third", "three", GOOD.replace("NAME", "shelf"))
    registry = site.registry()
    with pytest.raises(PluginConflictError) as caught:
        registry.backends["shelf"]
    assert caught.value.name == "shelf"
    for name in ("first", "second", "third"):
        assert name in str(caught.value)
    assert [s.state for s in registry.plugins if s.name in ("one", "two", "three")] == ["conflict"] * 3


def test_a_conflict_ends_when_one_claimant_is_disabled(site: Site) -> None:
    site.install("first", "one", GOOD.replace("NAME", "shelf"))
    site.install("second", "two", GOOD.replace("NAME", "shelf"))
    registry = site.registry(DISABLE="two")
    assert registry.backends["shelf"]
    assert next(s for s in registry.plugins if s.name == "two").state == "disabled"


def test_an_outside_plugin_cannot_take_a_built_ins_name(site: Site) -> None:
    site.install("spoof", "spoof", GOOD.replace("NAME", "cpu"))
    site.install("spoof2", "spoof2", GOOD.replace("NAME", "other"), entry="LMDB")
    registry = site.registry()
    assert registry.backends["cpu"].factory != "nowhere:missing"
    for name in ("spoof", "LMDB"):
        status = next(s for s in registry.plugins if s.name == name)
        assert status.state == "conflict"
        assert "lms-tiers" in (status.error or "")


def test_the_allow_list_keeps_other_outside_plugins_out_unimported(site: Site) -> None:
    site.install("good-plugin", "good", GOOD.replace("NAME", "good"))
    site.install("evil", "evil", "raise RuntimeError('was imported')")
    registry = site.registry(PLUGINS="good")
    assert {s.name: s.state for s in registry.plugins if s.name in ("good", "evil")} == {
        "good": "ok",
        "evil": "disabled",
    }
    assert "cpu" in registry.backends
    assert site.status("good", PLUGINS="").state == "disabled"


def test_a_built_in_can_be_disabled(site: Site) -> None:
    registry = site.registry(DISABLE="faulty, lm")
    assert "faulty" not in registry.backends
    with pytest.raises(ConfigError):
        registry.backends["faulty"]


def test_an_unknown_backend_lists_the_known_and_the_nearest(site: Site) -> None:
    with pytest.raises(ConfigError) as caught:
        site.registry().backends["lmbd"]
    assert caught.value.nearest == "lmdb"
    assert "cpu" in caught.value.known


OBSERVER = """
from lms_tiers import hookimpl
seen = []

@hookimpl
def tier_events(events):
    seen.append(list(events))
"""


def test_every_observer_sees_every_batch_once_though_another_one_raises(site: Site) -> None:
    site.install("o1", "observer1", OBSERVER)
    site.install("o2", "observer2", OBSERVER.replace("seen.append(list(events))", "raise RuntimeError('sick')"))
    site.install("o3", "observer3", OBSERVER)
    registry = site.registry()
    assert registry.observed
    registry.emit([1, 2])  # type: ignore[list-item]
    assert sys.modules["observer1"].seen == [[1, 2]]
    assert sys.modules["observer3"].seen == [[1, 2]]


def test_the_listing_is_plain_json(site: Site) -> None:
    import dataclasses

    site.install("bad-plugin", "bad", "raise ImportError('gone')")
    text = json.dumps([dataclasses.asdict(s) for s in site.registry().plugins])
    assert "gone" in text
