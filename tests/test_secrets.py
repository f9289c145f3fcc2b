"""Secrets of a device text stand nowhere: in no error, log, repr, report, nor in what a command prints."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic
import pytest
from lms_conformance.devices import harness_for
from lms_conformance.reports.html import to_html
from lms_conformance.reports.json import to_json
from lms_conformance.reports.junit import to_junit
from lms_conformance.run import run_properties

from lms_tiers import CreateStorageBackend
from lms_tiers.device import parse_device
from lms_tiers.errors import ConfigError, LmsTiersError, PluginError, StorageUnavailableError
from lms_tiers.options import parse_options
from lms_tiers.registry import default_registry
from lms_tiers.secrets import mask
from lms_tiers.server.run import announcement
from lms_tiers.server.server import Server
from lms_tiers.server.settings import ServerSettings
from tests.vault import VAULT, VaultOptions

SENTINEL = "tr0ub4dor"


@pytest.fixture(autouse=True)
def vault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(default_registry().backends._specs, "vault", VAULT)


def text_of(error: BaseException) -> str:
    """Everything that a log with a traceback shows of an error."""
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize(
    ("device", "error"),
    [
        ("vault:there?password={}&how=raises", PluginError),
        ("vault:there?password={}&how=unavailable", StorageUnavailableError),
        ("vault:there?password={}&how=chained", StorageUnavailableError),
        ("vault:there?password={}&how=unfit", ConfigError),
        ("vault:there?password={}&hwo=well", ConfigError),
        ("vault:there?password={}&password={}", ConfigError),
        ("vault:there?password={}&capacity=4", ConfigError),
        ("vault:there?password=a%26b&{}", ConfigError),
        ("vault:there?password={}&write=never", ConfigError),
        ("vault:there?password=a&{}&how=raises", ConfigError),
        ("vault:there?password={} > ", ConfigError),
        ("VAULT:there?licence={}", ConfigError),
        ("vault:me:{}@there?how", ConfigError),
        ("vault:there?licence={}&how", ConfigError),
        ("vault:there?password={}&capacity=1MiB&policy=nosuch", ConfigError),
        ("vault:there?password={} > cpu?capacity=1MiB", ConfigError),
        ("vault:there?password_env={}", ConfigError),
        ("valt:there?licence={}", ConfigError),
    ],
)
def test_no_error_quotes_a_secret(device: str, error: type[LmsTiersError]) -> None:
    with pytest.raises(error) as caught:
        CreateStorageBackend(device.replace("{}", SENTINEL))
    assert SENTINEL not in text_of(caught.value)


def test_an_error_that_hides_a_secret_still_says_where_it_was() -> None:
    with pytest.raises(ConfigError, match=r"option licence = \*\*\*: .*at least 3"):
        parse_options(VaultOptions, "vault", {"licence": "tr"})
    with pytest.raises(ConfigError, match="in 'vault:there\\?password=\\*\\*\\*', option 2 is not of the form"):
        CreateStorageBackend(f"vault:there?password={SENTINEL}&how")


def test_a_device_is_printed_without_its_secrets_and_can_be_written_with_them() -> None:
    text = f"cpu?capacity=1024B > vault:me:{SENTINEL}@there:1?password={SENTINEL}&licence={SENTINEL}&user=me"
    spec = parse_device(text)
    for shown in (str(spec), repr(spec), repr(spec.tiers), str(spec.tiers[1]), f"{spec}", mask(text)):
        assert SENTINEL not in shown
        assert "me:***@there:1?password=***&licence=***&user=me" in shown
    assert spec.text == text
    assert SENTINEL not in repr(ServerSettings(device=text))


def test_a_device_without_secrets_is_printed_as_it_is() -> None:
    for text in ("cpu?capacity=1024B", "lmdb:/data/a:b@c?codec=raw&sync=none", "lm:unix:/run/s", "lm:[::1]:7000"):
        assert mask(text) == text
        assert str(parse_device(text)) == text


def test_a_device_within_a_device_is_masked_too() -> None:
    inner = f"vault:there%3Fpassword={SENTINEL}"
    assert SENTINEL not in str(parse_device(f"faulty:{inner}?seed=1"))
    assert SENTINEL not in mask(f"faulty:vault:me:{SENTINEL}@there?seed=1")


def test_a_secret_may_be_kept_in_a_variable_or_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_PASSWORD", SENTINEL)
    (tmp_path / "licence").write_text(f"{SENTINEL}\n")
    given = {"password_env": "VAULT_PASSWORD", "licence_file": str(tmp_path / "licence")}
    options = parse_options(VaultOptions, "vault", given)
    assert options.password.get_secret_value() == SENTINEL
    assert options.licence is not None
    assert options.licence.get_secret_value() == SENTINEL
    assert SENTINEL not in repr(options)


def test_a_secret_that_is_not_where_it_should_be_is_an_error_that_says_where(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for given, says in (
        ({"password_env": "NOT_SET_ANYWHERE"}, "no variable 'NOT_SET_ANYWHERE'"),
        ({"password_file": str(tmp_path / "absent")}, "cannot be read: No such file"),
        ({"password_file": str(binary)}, "is not UTF-8"),
        ({"password": "a", "password_file": "b"}, "'password' is given twice"),
        ({"pasword_file": "b"}, "Did you mean 'password_file'"),
        ({"user_env": "b"}, "no option 'user_env'"),
    ):
        with pytest.raises(ConfigError, match=says):
            parse_options(VaultOptions, "vault", given)


def test_an_options_model_that_is_not_ours_has_secrets_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(pydantic.BaseModel):
        pin: pydantic.SecretStr | None = None
        depth: int = 0

    monkeypatch.setenv("PIN", SENTINEL)
    options = parse_options(Plain, "plain", {"pin_env": "PIN"})
    assert options.pin is not None
    assert options.pin.get_secret_value() == SENTINEL
    assert SENTINEL not in mask(f"plain?pin={SENTINEL}")


def test_the_log_of_an_opened_store_and_the_announcement_of_a_server_have_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = f"cpu?capacity=1MiB > vault:me:{SENTINEL}@there?capacity=1MiB&password={SENTINEL}"
    caplog.set_level(logging.DEBUG, "lms_tiers")
    with CreateStorageBackend(device) as store, Server(store, ServerSettings(port=0, device=device)) as server:
        said = "\n".join(announcement(server, None))
    assert "opened cpu" in caplog.text
    assert "vault:me:***@there" in said
    assert SENTINEL not in caplog.text + said


@pytest.mark.leaks_allowed
def test_no_report_of_the_kit_has_one() -> None:
    device = f"vault:me:{SENTINEL}@there?password={SENTINEL}&licence={SENTINEL}&how=forgets"
    report = run_properties(harness_for(device), profile="quick", only=["KEY-01", "GET-02"])
    assert report.failures()
    writers: list[Callable[[Any], str]] = [
        to_json,
        to_html,
        to_junit,
        lambda r: "".join(x.message() for x in r.results),
    ]
    for write in writers:
        assert "how=forgets" in mask(device)
        assert SENTINEL not in write(report), write


SITE = """
from lms_tiers import hookimpl
from tests.vault import VAULT

@hookimpl
def register_backends(register):
    register(VAULT)
"""

TRACE = '{"timestamp": 0, "input_length": 1024, "output_length": 1, "hash_ids": [1, 2]}\n'


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a process in which the plugin is installed."""
    (tmp_path / "vault_plugin.py").write_text(SITE)
    info = tmp_path / "vault_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vault-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lms_tiers]\nvault_plugin = vault_plugin\n")
    root = Path(__file__).resolve().parents[1]
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(root)))}


def slow(*values: Any) -> Any:
    """Of a command that imports torch, in a process or two of its own."""
    return pytest.param(*values, marks=pytest.mark.deep)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        slow(["conform", "{device}&how=forgets", "--profile", "quick", "--only", "KEY-01", "--json", "-"], 1),
        slow(["-v", "conform", "{device}&how=raises", "--profile", "quick", "--only", "KEY-01"], 1),
        slow(["replay", "{trace}", "--device", "{device}", "--json", "-", "--restart"], 0),
        (["-v", "serve", "--port", "0", "--device", "{device}&how=raises"], 1),
        (["plugins", "--json"], 0),
        slow(["doctor"], 0),
        slow(["doctor", "--device", "{device}"], 0),
    ],
)
def test_no_command_prints_one(command: list[str], status: int, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "trace.jsonl").write_text(TRACE)
    device = f"vault:me:{SENTINEL}@there?password={SENTINEL}&licence={SENTINEL}"
    words = [w.replace("{device}", device).replace("{trace}", str(tmp_path / "trace.jsonl")) for w in command]
    done = subprocess.run(
        [sys.executable, "-m", "lms_tiers", *words], capture_output=True, text=True, check=False,
        env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert done.stdout + done.stderr
    assert SENTINEL not in done.stdout + done.stderr


def test_a_server_that_serves_prints_none(environment: dict[str, str]) -> None:
    device = f"cpu?capacity=1MiB > vault:me:{SENTINEL}@there?capacity=1MiB&password={SENTINEL}"
    command = [sys.executable, "-m", "lms_tiers", "-v", "serve", "--port", "0", "--device", device]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        said = []
        for line in child.stdout:
            said.append(line)
            if line.startswith("point lms-tiers"):
                break
        child.send_signal(signal.SIGTERM)
        rest, errors = child.communicate()
    assert child.returncode == 0, errors
    assert "vault:me:***@there" in "".join(said)
    assert "opened" in errors
    assert SENTINEL not in "".join(said) + rest + errors
