"""No command ends in a traceback for what a terminal takes, for a pipe that nobody reads, or for a name of any bytes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from lms_tiers.cli import main
from lms_tiers.cli.terminal import READER_GONE, any_terminal
from lms_tiers.device import parse_device
from lms_tiers.errors import StorageUnavailableError
from lms_tiers.replay.generate import TraceShape, generate_trace, write_trace
from tests.depth import some

ENCODINGS = ["ascii", "latin-1", "cp1252", "utf-8"]


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A directory whose name is no text in any of the encodings here, with a trace of such a name in it."""
    place = tmp_path / os.fsdecode("é".encode() + b"\xff")
    place.mkdir()
    with (place / os.fsdecode(b"t\xff.jsonl")).open("w") as file:
        write_trace(generate_trace(TraceShape(requests=5, seed=1)), file)
    return place


def run(
    *arguments: str | Path, environment: Mapping[str, str] | None = None, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "lms_tiers", *(os.fsencode(a) for a in arguments)],
        stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, check=False,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip


def call(monkeypatch: pytest.MonkeyPatch, encoding: str, *arguments: str | Path) -> tuple[object, str, str]:
    """Exit status, standard output and standard error of a command whose terminal takes `encoding` only."""
    output, error = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2))
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setattr(sys, "argv", ["lms-tiers", *map(str, arguments)])
    with monkeypatch.context() as streams:
        streams.setattr(sys, "stdout", output)
        streams.setattr(sys, "stderr", error)
        with pytest.raises(SystemExit) as caught:
            main()
    shown = [stream.buffer.getvalue().decode(encoding) for stream in (output, error)]
    return caught.value.code or 0, shown[0], shown[1]


@pytest.mark.parametrize("encoding", some(ENCODINGS, "ascii".__eq__))
def test_every_terminal_takes_what_commands_print(odd: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    trace = next(odd.iterdir())
    for arguments in (
        ["plugins"],
        ["make-trace", odd / os.fsdecode(b"m\xfe"), "--requests", "3"],
        ["simulate", trace, "--policies", "lru", "--capacity", "50%", "--json", odd / "figures.json"],
        ["advise", trace, "--block-bytes", "64B", "--budget", "cpu=1KiB", "--policies", "lru"],
        ["replay", trace, "--device", "cpu?capacity=1MiB", "--block-bytes", "64B"],
        ["conform-policy", "fifo"],
        ["doctor", odd],
    ):
        assert call(monkeypatch, encoding, *arguments)[0] == 0, arguments
    assert json.loads((odd / "figures.json").read_text())["trace"] == str(trace)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_is_at_fault_is_named_on_every_terminal(odd: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    for command in (["inspect"], ["check"], ["compact"], ["simulate"], ["serve", "--config"]):
        status, _, said = call(monkeypatch, encoding, *command, odd / "none")
        assert status == 2, (command, said)
        assert "\\xff" in said
        assert "none" in said


def test_a_plain_table_stays_in_line(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, shown, said = call(monkeypatch, "ascii", "plugins")
    assert status == 0, said
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    assert len(rows) > 10
    assert {len(row) for row in rows} == {70}


def test_the_locale_of_a_machine_without_one_is_enough(odd: Path) -> None:
    trace, figures = next(odd.iterdir()), odd / os.fsdecode(b"f\xfe.json")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "TERM": "dumb"}
    done = run("simulate", trace, "--policies", "lru", "--capacity", "50%", "--json", figures, environment=plain)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert json.loads(figures.read_text())["trace"].endswith("t\udcff.jsonl")
    done = run("inspect", odd / "none", environment=plain)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: ")
    assert b"\\xc3\\xa9\\xff" in done.stderr


@pytest.mark.parametrize("arguments", [["plugins"], ["plugins", "--json"], ["make-trace", "-"], ["--help"]])
def test_a_pipe_that_nobody_reads_ends_a_command_as_it_ends_others(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(*arguments, stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (READER_GONE, b"")


@pytest.mark.parametrize("arguments", [["plugins"], ["make-trace", "-"], ["plugins", "--json"]])
def test_a_full_disk_behind_standard_output_is_an_error_of_one_line(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = run(*arguments, stdout=full.fileno())
    assert done.returncode == 2
    assert done.stderr == b"error: standard output: cannot be written: No space left on device.\n"


def test_a_closed_standard_output_is_nowhere(tmp_path: Path) -> None:
    script = 'exec "$0" -m lms_tiers make-trace - --requests 2 >&-'
    done = subprocess.run(["sh", "-c", script, sys.executable], stderr=subprocess.PIPE, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr


def test_what_an_encoding_lacks_is_written_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_written = io.BytesIO()
    stream = io.TextIOWrapper(bytes_written, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    with any_terminal():
        print("5 µs – … é \udcff \U0001f600", flush=True)
    assert bytes_written.getvalue() == b"5 us - . \\xe9 \\xff \\U0001f600\n"
    assert stream.errors == "strict"
    assert sys.stdout is stream


def test_a_fault_of_standard_output_is_typed_and_one_of_standard_error_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Sick(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stdout", Sick())
    monkeypatch.setattr(sys, "stderr", Sick())
    with any_terminal():
        print("nobody", file=sys.stderr)
        with pytest.raises(StorageUnavailableError, match="standard output"):
            print("x")


def test_a_device_of_any_path_is_written_as_it_was_read() -> None:
    path = os.fsdecode(b"/kv\xff/x y")
    (tier,) = parse_device(f"lmdb:{path}?capacity=1MiB").tiers
    assert tier.location == path
    assert str(tier) == "lmdb:/kv%FF/x y?capacity=1048576B"
    assert parse_device(str(tier)).tiers == (tier,)
