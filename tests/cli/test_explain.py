"""`lms-tiers explain` says what the one source of each thing says; `lms-tiers` alone names every command in a line."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import subprocess
import sys

import pytest
from lms_conformance.spec import properties
from prometheus_client import CollectorRegistry
from typer.main import get_command

from lms_tiers import CreateStorageBackend, errors
from lms_tiers.cli import app
from lms_tiers.metrics import names
from lms_tiers.metrics.collector import StoreCollector
from lms_tiers.options import TIER_MEANINGS, StoreOptions, described
from lms_tiers.registry import Registry, load_attribute
from lms_tiers.secrets import TIER_OPTIONS
from lms_tiers.server import collector
from lms_tiers.server.collector import ServerCollector
from lms_tiers.server.server import Server
from lms_tiers.server.settings import make_settings

COMMAND = get_command(app)  # made once: that takes longer than to explain


def explained(name: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as told:
        COMMAND.main(["explain", name], standalone_mode=False)
    return " ".join(told.getvalue().split())


def test_every_error_is_explained_by_its_docstring() -> None:
    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and issubclass(kind, errors.LmsTiersError):
            assert " ".join((inspect.getdoc(kind) or "").split()) in explained(name)


def test_every_property_is_explained_by_its_sentence_and_a_family_by_all_of_its_own() -> None:
    for prop in properties()[::7]:
        assert prop.sentence in explained(prop.id.lower())
    told = explained("CRA")
    assert all((prop.sentence in told) == (prop.family == "CRA") for prop in properties())


def test_every_option_is_explained_by_its_model() -> None:
    models = [("store", StoreOptions)]
    models += [(s.name, load_attribute(s.options)) for s in Registry({}, []).backends.specs() if s.options]
    for owner, model in models:
        for option in described(model):
            text = explained(f"{owner}.{option.name}")
            assert " ".join(option.meaning.replace("`", "").split()) in text
            assert ("_file=PATH" in text) == option.secret
    assert tuple(TIER_MEANINGS) == TIER_OPTIONS
    assert "hazard" in explained("policy")
    assert "option of the backend lmdb" in explained("codec")


@pytest.mark.leaks_allowed
def test_every_metric_is_explained_by_its_help_text() -> None:
    registry = CollectorRegistry()
    with CreateStorageBackend("cpu?capacity=1MiB > lm:127.0.0.1:1?lazy=true") as store:
        registry.register(StoreCollector(store))
        told = {(f.name, f.type, f.documentation) for f in registry.collect() if "_backend_" not in f.name}
        with Server(store, make_settings(None, {"port": 0})) as server:
            told |= {(f.name, f.type, f.documentation) for f in ServerCollector(server).collect()}
    said = {
        (name.removesuffix("_total"), kind, text) for name, kind, text in (*names.described(), *collector.described())
    }
    assert {one for one in told if "shared_engine_" not in one[0]} <= said
    assert {name for name, _, _ in said} - {name for name, _, _ in told} <= {
        "lms_tiers_shared_engine_keys", "lms_tiers_shared_engine_bytes",
    }  # fmt: skip
    for name, _, text in said:
        assert " ".join(text.split()) in explained(name)
    assert "tier_evictions for back-pressure" in explained("drops")


def test_what_nobody_calls_so_is_an_error_that_names_what_is_near() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lms_tiers", "explain", "capacityeror"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "capacityerror" in done.stderr
    assert len(done.stderr) < 400


def test_every_command_is_named_with_one_line_on_a_narrow_terminal() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lms_tiers"], capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "80", "TERMINAL_WIDTH": "80"},
    )  # fmt: skip
    told = (done.stdout + done.stderr).partition("Commands")[2].splitlines()[1:]
    lines = [line.strip("│ ") for line in told if line.startswith("│")]
    assert [line.split()[0] for line in lines] == [command.name for command in app.registered_commands]
    assert all(line.endswith(".") for line in lines)
