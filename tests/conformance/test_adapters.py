"""The registry of the engines' interfaces, how a property runs, and what the command line says; no engine is needed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from lms_conformance.adapters.driven import Driven, told
from lms_conformance.adapters.harness import AdapterHarness
from lms_conformance.adapters.interface import INTERFACES, Rule, interface, rules
from lms_conformance.adapters.pages import with_tables
from lms_conformance.adapters.run import AbsentEngineError, AdapterEngine, run_adapter
from lms_conformance.adapters.trial import AdapterTrial, NotApplicable
from lms_conformance.outcome import Status
from lms_conformance.profiles import profile
from lms_conformance.reports import to_html, to_junit
from lms_conformance.violation import expect
from typer.testing import CliRunner

from lms_tiers.cli import app
from lms_tiers.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", INTERFACES)
def test_each_property_has_an_id_without_gaps_and_one_sentence(name: str) -> None:
    known = rules(name)
    letter = interface(name).letter
    assert [p.id for p in known] == [f"DOR-{letter}{n:02}" for n in range(1, len(known) + 1)]
    assert len({p.sentence for p in known}) == len(known)
    for p in known:
        assert re.fullmatch(r"[A-Z`].*[^.]\.", p.sentence), p.sentence


def test_the_page_has_the_tables_as_they_are() -> None:
    page = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
    assert page == with_tables(page), "run `python -m lms_conformance.adapters.pages docs/adapters.md`"


def test_an_interface_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'hicache'"):
        interface("hicash")


# -- how a property runs -----------------------------------------------------------------------------------------------


class Toy(Driven):
    """An adapter that answers, or raises."""

    closed = 0

    @told
    def ask(self, what: str) -> str:
        if what == "nothing":
            raise KeyError(what)
        return what.upper()

    def close(self) -> None:
        type(self).closed += 1


class Toys(AdapterHarness):
    of = "hicache"

    def introduce(self) -> type[Any]:
        return Toy

    def drive(self, path: Path, **how: Any) -> Toy:
        (path / "kept").write_text(json.dumps(self.options_at(path)))
        return Toy()


def ran(check: Any, **options: Any) -> Any:
    rule = Rule(id="DOR-H99", sentence="It is a toy.", check=check, lacks={})
    engine = AdapterEngine(Toys("toys:Toy", options), profile("quick"), 1)
    return engine.run(rule)


def test_a_passing_property_closes_what_it_opened_and_counts_its_calls() -> None:
    before = Toy.closed
    result = ran(lambda trial: expect(trial.adapter().ask("yes") == "YES", "YES"))
    assert (result.status, result.calls) == (Status.PASSED, 2)
    assert Toy.closed == before + 1


def test_a_failure_prints_the_calls_that_led_there_as_python() -> None:
    def check(trial: AdapterTrial) -> None:
        expect(trial.adapter(way="v1").ask("yes") == "NO", "NO", "YES")

    result = ran(check)
    assert result.status is Status.FAILED
    assert "Toys('toys:Toy', {}, None).drive(path, **how)" in result.program
    assert "adapter = open_adapter(path1, way='v1')\nadapter.ask('yes')  # 'YES'" in result.program
    compile(result.program, "program", "exec")


def test_what_an_adapter_raises_into_its_engine_is_a_failure_of_the_property() -> None:
    result = ran(lambda trial: trial.adapter().ask("nothing"))
    assert (result.status, result.kind) == (Status.FAILED, "assertion")
    assert "KeyError" in result.got


def test_a_property_may_find_that_it_does_not_apply() -> None:
    def check(trial: AdapterTrial) -> None:
        trial.adapter()
        raise NotApplicable("it is a toy")

    result = ran(check)
    assert (result.status, result.reason) == (Status.NOT_APPLICABLE, "it is a toy")


def test_a_property_that_calls_nothing_is_red() -> None:
    assert ran(lambda trial: None).red


def test_options_have_a_place_of_their_own_wherever_they_stand() -> None:
    seen = []

    def check(trial: AdapterTrial) -> None:
        drive = trial.adapter()
        seen.append((str(drive.path), json.loads((drive.path / "kept").read_text())))

    ran(check, place="{tmp}/a", inner={"list": ["{tmp}", 3]})
    path, kept = seen[0]
    assert kept == {"place": f"{path}/a", "inner": {"list": [path, 3]}}
    assert not Path(path).exists()


def test_a_medium_that_takes_no_more_is_one_again_afterwards(tmp_path: Path) -> None:
    def check(trial: AdapterTrial) -> None:
        drive = trial.adapter()
        with trial.full(drive, 10), pytest.raises(OSError, match="large"):
            (tmp_path / "big").write_bytes(bytes(100))
        (tmp_path / "big").write_bytes(bytes(100))

    assert ran(check).status is Status.PASSED


def test_an_adapter_that_does_not_open_is_a_failure_with_what_it_said() -> None:
    class Shy(Toys):
        def drive(self, path: Path, **how: Any) -> Toy:
            raise OSError("not today")

    rule = Rule(id="DOR-H99", sentence="It is shy.", check=lambda trial: trial.adapter(), lacks={})
    result = AdapterEngine(Shy("toys:Toy"), profile("quick"), 1).run(rule)
    assert (result.status, result.got) == (Status.FAILED, "OSError: not today")


def test_a_class_that_is_not_there_is_a_configuration_error() -> None:
    for subject in ("nowhere:Class", "json:Class", "json:dumps"):
        with pytest.raises(ConfigError, match=subject):
            Toys(subject).class_of()


# -- where the engine is not -------------------------------------------------------------------------------------------


@pytest.fixture
def without_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("sglang", "lmcache", "vllm"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("name", INTERFACES)
@pytest.mark.usefixtures("without_engines")
def test_where_the_engine_is_not_the_command_says_so_and_exits_2(name: str) -> None:
    done = CliRunner().invoke(app, ["conform", "--as", name, "nobody:Here"])
    assert done.exit_code == 2
    assert f"{interface(name).engine} cannot be imported here" in done.output


@pytest.mark.usefixtures("without_engines")
def test_a_run_where_the_engine_is_not_says_where_to_run_it() -> None:
    with pytest.raises(AbsentEngineError, match="run the kit where SGLang is installed"):
        run_adapter(Toys("toys:Toy"))


def test_an_interface_or_options_that_are_no_good_are_refused() -> None:
    for arguments, said in (
        (["--as", "hicash", "x:Y"], "there is no interface 'hicash'"),
        (["--as", "hicache", "--prove", "x:Y"], "--prove"),
    ):
        done = CliRunner().invoke(app, ["conform", *arguments])
        assert done.exit_code != 0
        assert said in str(done.exception) + done.output


# -- reports -----------------------------------------------------------------------------------------------------------


class Present(Toys):
    """As if SGLang were here."""

    @property
    def interface(self) -> Any:
        import dataclasses

        return dataclasses.replace(interface("hicache"), modules=())


def test_a_report_is_the_kits_own_and_has_the_family(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(trial: AdapterTrial) -> None:
        trial.adapter().ask("yes")

    rule = Rule(id="DOR-H99", sentence="It is a toy.", check=check, lacks={})
    monkeypatch.setattr("lms_conformance.adapters.run.rules", lambda name: [rule])
    report = run_adapter(Present("toys:Toy"), profile="quick")
    assert report.ok
    assert "1/1 · 0 waived" in report.badge
    assert "DOR-H99" in to_html(report)
    assert "an engine's own contract" in to_html(report).replace("&#x27;", "'")
    assert "DOR-H99" in to_junit(report)
    with pytest.raises(ConfigError, match="DOR-H98"):
        run_adapter(Present("toys:Toy"), only=["DOR-H98"])
