from __future__ import annotations

import re
from pathlib import Path

import pytest
from lms_conformance.spec import FAMILIES, NEEDS, SPEC_VERSION, Property, gates, properties, select

from lms_tiers.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def test_each_property_has_an_id_of_its_family_and_one_sentence() -> None:
    seen = set()
    for p in properties():
        assert re.fullmatch(r"[A-Z]{3}-\d\d", p.id)
        assert p.family in FAMILIES
        assert p.sentence.endswith(".")
        assert p.sentence not in seen
        seen.add(p.sentence)
    assert {p.family for p in properties()} == set(FAMILIES)


def test_ids_have_no_gaps_so_that_none_is_ever_reused() -> None:
    for family in FAMILIES:
        numbers = [int(p.id[4:]) for p in properties() if p.family == family]
        assert numbers == list(range(1, len(numbers) + 1))


def test_what_is_not_declared_is_verified_too() -> None:
    needs = {n for p in properties() for n in p.needs}
    for capability in ("remove", "persistent", "evicts", "forkable"):
        assert capability in needs
        assert f"!{capability}" in needs
    assert needs <= set(NEEDS)


def test_the_contract_names_every_property_with_its_sentence() -> None:
    text = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    for p in properties():
        assert f"| {p.id} | {p.sentence.replace('|', chr(92) + '|')} |" in text, p.id


def test_properties_are_selected_by_id_and_by_family() -> None:
    assert [p.id for p in select(["KEY-01"])] == ["KEY-01"]
    assert {p.family for p in select(["ovr,RMV"])} == {"OVR", "RMV"}
    with pytest.raises(ConfigError, match="KEY-01"):
        select(["KEY-0l"])


def test_a_newer_property_warns_and_does_not_gate() -> None:
    newer = Property(id="KEY-99", sentence="Later.", check=lambda trial: None, since=SPEC_VERSION)
    assert not gates(newer, SPEC_VERSION)
    assert gates(newer, "1.2")
