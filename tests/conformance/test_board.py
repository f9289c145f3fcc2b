from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from lms_conformance.board import collect, write
from lms_conformance.board.__main__ import main
from lms_conformance.board.runs import slug
from lms_conformance.outcome import Report, Result, Status
from lms_conformance.reports import to_json

from lms_tiers.errors import ConfigError


def report(subject: str, day: int, **statuses: Status) -> Report:
    made = Report(
        subject, "m.Backend", "dist 1.2", "1.1", "0.1.0", "ci", 20, {}, {}, started=f"2026-01-{day:02}T03:04:05"
    )
    made.results = [
        Result(id.replace("_", "-"), f"Promise <{id}>.", status, reason="because") for id, status in statuses.items()
    ]
    return made


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    folder = tmp_path / "reports"
    made = [
        report("cpu", 1, KEY_01=Status.PASSED, RMV_01=Status.FAILED),
        report("cpu", 2, KEY_01=Status.FAILED, RMV_01=Status.PASSED),
        report("cpu", 3, KEY_01=Status.FAILED, RMV_01=Status.NOT_APPLICABLE),
        report("cpu > lmdb:<x>", 2, KEY_01=Status.PASSED, XYZ_01=Status.PASSED),
    ]
    for at, one in enumerate(made):
        path = folder / str(at % 2) / f"{at}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_json(one))
    return folder


class Page(HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.refers: list[str] = []
        self.ids: set[str] = set()
        self.words = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.refers += [given[name] or "" for name in ("href", "src") if name in given]
        self.ids |= {given["id"] or ""} if "id" in given else set()

    def handle_data(self, data: str) -> None:
        self.words += data


def test_every_link_of_every_page_leads_somewhere(reports: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    pages = write(collect([reports]), out)
    found = sorted(out.rglob("*.html"))
    assert pages == len(found) == 1 + 2 + (3 + 1) + (1 + 1) + 3
    for path in found:
        for address in Page(path).refers:
            place, _, id = address.partition("#")
            target = (path.parent / place).resolve() if place else path
            assert target.is_file(), f"{path}: {address}"
            assert out.resolve() in [target, *target.parents]
            assert not id or id in Page(target).ids, f"{path}: {address}"


def test_the_matrix_tells_the_newest_run_of_each(reports: Path, tmp_path: Path) -> None:
    write(collect([reports]), tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "1 of 2 conform" in page
    rows = re.findall(r"<tr><th><a .*?</tr>", page)
    assert [re.findall(r"<td class=(\w+)[^>]*>([^<]*)</td>", row)[:3] for row in rows] == [
        [("red", "0/1"), ("grey", "–"), ("grey", "–")],
        [("green", "1/1"), ("grey", "–"), ("green", "1/1")],
    ]
    assert "<x>" not in page
    assert "cpu &gt; lmdb:&lt;x&gt;" in page


def test_a_subject_tells_what_turned_between_its_runs(reports: Path, tmp_path: Path) -> None:
    write(collect([reports]), tmp_path)
    words = Page(tmp_path / "subjects" / "cpu.html").words
    assert [words.index(part) for part in ("2026-01-03", "2026-01-02", "2026-01-01")] == sorted(
        words.index(part) for part in ("2026-01-03", "2026-01-02", "2026-01-01")
    )
    assert "now red: KEY-01; red no more: RMV-01" in words
    assert "as before" in words
    assert "first run" in words


def test_a_property_tells_since_when_it_stands_so(reports: Path, tmp_path: Path) -> None:
    write(collect([reports]), tmp_path)
    words = Page(tmp_path / "properties" / "KEY-01.html").words
    assert "Promise <KEY_01>." in words
    assert "cpufailedbecausesince 2026-01-02" in words.replace("\n", "")


def test_badges_are_of_the_newest_run_and_at_an_address_that_stays(reports: Path, tmp_path: Path) -> None:
    write(collect([reports]), tmp_path)
    other = slug("cpu > lmdb:<x>")
    assert slug("cpu") == "cpu"
    assert re.fullmatch("cpu-lmdb-x-[0-9a-f]{8}", other)
    assert slug("cpu > lmdb:<y>")[-8:] != other[-8:]
    svg = ElementTree.fromstring((tmp_path / "badges" / f"{other}.svg").read_text())
    assert svg.get("aria-label") == "lms conformance: spec 1.1 · 2/2 · 0 waived · 0 vacuous"
    assert json.loads((tmp_path / "badges" / "cpu.json").read_text())["color"] == "red"


def test_a_report_that_lies_there_twice_counts_once_and_two_of_one_second_count_both(tmp_path: Path) -> None:
    for name, one in {"a": Status.PASSED, "b": Status.PASSED, "c": Status.FAILED}.items():
        (tmp_path / f"{name}.json").write_text(to_json(report("cpu", 1, KEY_01=one)))
    assert len(collect([tmp_path]).subjects[0].runs) == 2


@pytest.mark.parametrize("text", ["", "{}", "[]", "not json", '{"form": 1, "results": 3}'])
def test_what_is_no_report_is_named_and_nothing_is_written(
    text: str, reports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(text)
    assert main([str(reports), str(bad), "--out", str(tmp_path / "site")]) == 2
    assert str(bad) in capsys.readouterr().err
    assert not (tmp_path / "site").exists()


def test_no_reports_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="conform NAME --json"):
        collect([tmp_path])
    with pytest.raises(ConfigError, match="no report at"):
        collect([tmp_path / "none"])
