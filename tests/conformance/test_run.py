"""How outcomes are weighed: hangs, crashes of the suite, waivers, the floor, the spec version."""

from __future__ import annotations

import dataclasses
import datetime
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import pytest
from lms_conformance import ConformanceError, FactoryHarness, Waiver, check_backend, run_properties
from lms_conformance.engine import LOOKS, Engine
from lms_conformance.outcome import Report, Result, Status
from lms_conformance.profiles import profile
from lms_conformance.run import introduce, judge
from lms_conformance.spec import SPEC_VERSION, Property, features, properties
from lms_conformance.trial import Trial
from lms_conformance.violation import expect
from lms_conformance.waivers import read_waivers
from lms_conformance.zoo.memory import BareReference

from lms_tiers.errors import ConfigError
from lms_tiers.messages import CacheEngineKey, ClientMetaMessage, LMSMemoryObj


class StoresNothing(BareReference):
    """`put` does nothing."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        self._open()


class HangsOnEmpty(BareReference):
    """`get` of an empty chunk never returns."""

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        found = super().get(key)
        if found is not None and found.length == 0:
            threading.Event().wait()
        return found


class RaisesKeyError(BareReference):
    """`get` of an absent key raises."""

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        found = super().get(key)
        if found is None:
            raise KeyError(key)
        return found


TODAY = datetime.date(2030, 1, 15)


def engine(factory: Callable[..., Any] = BareReference, **changes: Any) -> Engine:
    harness = FactoryHarness(factory)
    caps = introduce(harness).capabilities
    effort = dataclasses.replace(profile("quick"), **changes)
    return Engine(harness, caps, features(caps, harness), effort, 1)


def made(check: Callable[..., None], since: str = "1.0") -> Property:
    return Property(id="KEY-99", sentence="Made up.", check=check, since=since)


def uses(trial: Trial) -> None:
    trial.open().contains("a")


def breaks(trial: Trial) -> None:
    trial.open().contains("a")
    expect(False, "something", "another")


def weigh(p: Property, waiver: Waiver | None = None, spec: str = "1.0") -> Result:
    return judge(p, engine(), frozenset(), spec, waiver, TODAY)


def test_a_backend_that_does_nothing_on_put_is_told_so() -> None:
    with pytest.raises(ConformanceError, match="does `put` store anything") as raised:
        check_backend(StoresNothing, profile="quick", only=["PUT", "KEY"])
    message = str(raised.value)
    assert "PUT-01: Bytes and metadata of any chunk come back exactly." in message
    assert "import StoresNothing" in message


def test_the_program_of_a_failure_runs_and_fails() -> None:
    report = run_properties(FactoryHarness(StoresNothing), profile="quick", only=["PUT-01"])
    program = report.results[0].program
    code = program.replace(f"from {StoresNothing.__module__} import StoresNothing", "")
    with pytest.raises(AssertionError):
        exec(compile(code, "program", "exec"), {"StoresNothing": StoresNothing})


def test_a_failing_program_is_shrunk() -> None:
    report = run_properties(FactoryHarness(StoresNothing), profile="quick", only=["OVR-06"])
    assert report.results[0].status is Status.FAILED
    assert report.results[0].program.count("backend.put") == 1
    assert "size=0" in report.results[0].program


@pytest.mark.leaks_allowed
def test_a_hang_is_a_named_failure_and_the_run_goes_on() -> None:
    e = engine(HangsOnEmpty, hang_seconds=1.0)
    from lms_conformance.spec import select

    put_06, put_08 = (e.run(p) for p in select(["PUT-06", "PUT-08"]))
    assert put_06.status is Status.HUNG
    assert "in get" in put_06.trace
    assert put_08.status is Status.PASSED


def test_a_property_that_goes_on_slowly_is_no_hang() -> None:
    """Calls of it follow each other for longer than a call may hang: a slow medium, or a busy machine."""
    e, looked = engine(hang_seconds=1.0), threading.Event()
    e.on_look = looked.set

    def slow(trial: Trial) -> None:
        backend = trial.open()
        for _ in range(LOOKS + 3):
            looked.clear()
            looked.wait()
            backend.contains("a")

    assert e.run(made(slow)).status is Status.PASSED


@pytest.mark.leaks_allowed
def test_a_property_that_goes_on_for_ever_is_a_hang() -> None:
    over = threading.Event()

    def endless(trial: Trial) -> None:
        backend = trial.open()
        while not over.is_set():
            backend.contains("a")

    result = engine(hang_seconds=0.05).run(made(endless))
    over.set()
    assert result.status is Status.HUNG
    assert "finish within 0.5 s" in result.expected


def test_an_exception_of_a_backend_is_a_failure_with_its_call() -> None:
    report = run_properties(FactoryHarness(RaisesKeyError), profile="quick", only=["GET-01", "CNT-03"])
    assert [r.status for r in report.results] == [Status.FAILED, Status.FAILED]
    assert report.results[0].kind == "assertion"
    assert "KeyError" in report.results[0].got
    assert report.results[1].kind == "raised"


def test_an_error_of_the_suite_itself_is_no_failure_of_the_backend_but_red() -> None:
    def stumbles(trial: Trial) -> None:
        trial.open()
        raise RuntimeError("the check's own mistake")

    result = weigh(made(stumbles))
    assert result.status is Status.ERROR
    assert result.red


def test_a_property_that_called_nothing_did_not_run_and_is_red() -> None:
    result = weigh(made(lambda trial: None))
    assert result.status is Status.NOT_RUN
    assert result.red


def test_a_run_that_required_nothing_is_red() -> None:
    report = Report("s", "b", "p", "1.0", "0", "ci", 1, {}, {})
    assert not report.ok
    report.results.append(Result("KEY-01", "x", Status.NOT_APPLICABLE))
    assert not report.ok
    report.results.append(Result("KEY-02", "x", Status.PASSED))
    assert report.ok


def test_a_waived_failure_does_not_turn_a_run_red() -> None:
    result = weigh(made(breaks), Waiver("KEY-99", "known", TODAY))
    assert result.status is Status.WAIVED
    assert "known" in result.reason
    assert not result.red


def test_a_waiver_that_expired_does() -> None:
    result = weigh(made(breaks), Waiver("KEY-99", "known", TODAY - datetime.timedelta(days=1)))
    assert result.status is Status.FAILED
    assert "expired" in result.reason


def test_a_waived_property_that_passes_is_an_error() -> None:
    result = weigh(made(uses), Waiver("KEY-99", "known", TODAY))
    assert result.status is Status.STALE_WAIVER
    assert result.red


def test_a_waiver_must_name_a_property_once() -> None:
    waiver = Waiver("KEY-1", "typing error", TODAY)
    with pytest.raises(ConfigError, match="KEY-1"):
        run_properties(FactoryHarness(BareReference), only=["KEY-01"], waivers=[waiver])
    twice = [Waiver("KEY-01", "a", TODAY)] * 2
    with pytest.raises(ConfigError, match="twice"):
        run_properties(FactoryHarness(BareReference), only=["KEY-01"], waivers=twice)


def test_waivers_are_read_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "waivers.toml"
    file.write_text('[[waiver]]\nproperty = "KEY-01"\nreason = "no Unicode yet"\nexpires = 2030-06-01\n')
    assert read_waivers(file) == [Waiver("KEY-01", "no Unicode yet", datetime.date(2030, 6, 1))]
    file.write_text('[[waiver]]\nproperty = "KEY-01"\nexpires = 2030-06-01\n')
    with pytest.raises(ConfigError, match="reason"):
        read_waivers(file)


def test_a_newer_property_warns_under_the_spec_it_came_with_and_gates_after_it() -> None:
    assert weigh(made(breaks, since="1.1")).status is Status.WARNED
    assert weigh(made(breaks, since="1.1"), spec="1.1").status is Status.WARNED
    assert weigh(made(breaks, since="1.1"), spec="1.2").status is Status.FAILED
    assert weigh(made(breaks), spec="1.0").status is Status.FAILED


def test_the_same_seed_draws_the_same_examples() -> None:
    (drawn,) = (p for p in properties() if p.id == "OVR-06")
    runs = [engine(example_seconds=math.inf).run(drawn) for _ in range(2)]  # however long they take
    assert runs[0].calls == runs[1].calls > 100


def test_what_is_no_backend_cannot_be_introduced() -> None:
    with pytest.raises(ConformanceError, match="no LMSBackendInterface"):
        check_backend(dict, only=["KEY-01"])  # type: ignore[arg-type]
    with pytest.raises(ConformanceError, match="cannot be opened"):
        check_backend(lambda: 1 / 0, only=["KEY-01"])  # type: ignore[arg-type,return-value]


def test_a_spec_newer_than_the_kit_is_refused() -> None:
    for spec in ("1.2", "2.0"):
        with pytest.raises(ConfigError, match=f"knows the spec up to {SPEC_VERSION}, not {spec}"):
            run_properties(FactoryHarness(BareReference), only=["KEY-01"], spec=spec)
