"""The recorder sees what a process does to its files, and the medium keeps of it what a loss of power may leave."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from lms_conformance.chunks import Chunk
from lms_conformance.power.build import compiler, recorder
from lms_conformance.power.log import Replay, replayed
from lms_conformance.power.medium import SECTOR, Marked, Medium, Names, Synced, Write, fates
from lms_conformance.power.runs import Run, after
from lms_conformance.profiles import profile
from lms_conformance.trial import Trial
from lms_conformance.violation import Violation
from lms_conformance.zoo.harnesses import MutantHarness, ReferenceHarness
from lms_conformance.zoo.hunt import engine_of

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler: `apt-get install gcc`")


def write(file: int, at: int, data: bytes) -> Write:
    sectors = {at + i: data[i : i + SECTOR] for i in range(0, len(data), SECTOR)}
    return Write(file, sectors, at + len(data))


def images(medium: Medium, where: Path, draws: int = 0) -> set[tuple[tuple[str, bytes], ...]]:
    """Everything that may be left."""
    found = set()
    for i, fate in enumerate(fates(medium.pending, draws, random.Random(5))):
        image = where / str(i)
        image.mkdir()
        medium.image(image, lambda op, fate=fate: fate[id(op)])  # type: ignore[misc]
        found.add(tuple(sorted((str(f.relative_to(image)), f.read_bytes()) for f in image.rglob("*") if f.is_file())))
    return found


def after_all(*ops: Write | Names | Synced) -> Medium:
    medium = Medium()
    for op in ops:
        medium.advance(op)
    return medium


def test_what_was_synced_is_there_and_the_rest_may_be(tmp_path: Path) -> None:
    medium = after_all(
        Names((("f", 0),)), write(0, 0, b"old"), Synced(file=0), write(0, 0, b"new"),
    )  # fmt: skip
    assert images(medium, tmp_path) == {(("f", b"old"),), (("f", b"new"),)}


def test_a_rename_without_a_sync_is_one_step_and_its_file_may_be_empty(tmp_path: Path) -> None:
    made = (Names((("f", 0),)), write(0, 0, b"old"), Synced(file=0))
    medium = after_all(*made, Names((("g", 1),)), write(1, 0, b"new"), Names((("f", 1), ("g", None))))
    assert images(medium, tmp_path) == {
        (("f", b"old"),), (("f", b"old"), ("g", b"")), (("f", b"old"), ("g", b"new")), (("f", b""),), (("f", b"new"),),
    }  # fmt: skip
    medium.advance(Synced(file=1))
    medium.advance(Synced(directory=""))
    (tmp_path / "later").mkdir()
    assert images(medium, tmp_path / "later") == {(("f", b"new"),)}


def test_names_of_a_directory_follow_when_that_one_is_synced(tmp_path: Path) -> None:
    medium = after_all(Names((("a/f", 0),)), Names((("b/f", 1),)), Synced(directory="a"))
    assert images(medium, tmp_path) == {(("a/f", b""),), (("a/f", b""), ("b/f", b""))}


def test_a_write_may_be_torn_at_a_sector(tmp_path: Path) -> None:
    medium = after_all(Names((("f", 0),)), write(0, 0, b"o" * 1024), Synced(file=0), write(0, 0, b"n" * 1024))
    left = {dict(image)["f"] for image in images(medium, tmp_path, draws=400)}
    assert left == {a * SECTOR + b * SECTOR for a in (b"o", b"n") for b in (b"o", b"n")}


def test_a_file_that_was_cut_short_may_have_its_old_length(tmp_path: Path) -> None:
    medium = after_all(Names((("f", 0),)), write(0, 0, b"o" * 700), Synced(file=0), Write(0, {}, 100))
    assert {dict(image)["f"] for image in images(medium, tmp_path)} == {b"o" * 700, b"o" * 100}


DEEDS = """
import ctypes, mmap, os, sys
place, log = sys.argv[1:]
os.chdir(place)
lib = ctypes.CDLL(None)
assert lib.lms_record(os.fsencode(place), os.fsencode(log))
with open("plain", "wb") as f: f.write(b"x" * 5000); f.flush(); f.seek(10); f.write(b"y")
fd = os.open("at", os.O_RDWR | os.O_CREAT); os.pwrite(fd, b"abc", 1000); os.pwritev(fd, [b"de", b"fgh"], 600); os.fsync(fd)
os.writev(fd, [b"1", b"22"]); os.ftruncate(fd, 900); os.posix_fallocate(fd, 0, 3000); os.fdatasync(fd)
more = os.open("at", os.O_WRONLY | os.O_APPEND); os.write(more, b"end"); os.close(more)
os.mkdir("sub"); open("sub/one", "wb").write(b"1" * 513); os.rename("sub/one", "sub/two"); os.link("sub/two", "three")
os.rename("sub", "bus"); os.unlink("three"); open("gone", "wb").write(b"g"); os.unlink("gone")
open("again", "wb").write(b"first, longer"); open("again", "wb").write(b"second")
os.replace("again", "plain"); os.truncate("plain", 3)
src = os.open(sys.executable, os.O_RDONLY); to = os.open("copied", os.O_RDWR | os.O_CREAT)
os.copy_file_range(src, to, 3000); os.sendfile(to, src, 3000, 700); os.close(to)
os.ftruncate(fd, 9000); m = mmap.mmap(fd, 9000); m[5000:5003] = b"map"; m.flush()
sync = os.open("sync", os.O_WRONLY | os.O_CREAT | os.O_DSYNC); os.write(sync, b"s")
lib.lms_mark(7)
child = os.fork()
if not child: os.pwrite(fd, b"child", 0); os._exit(0)
os.waitpid(child, 0); os.pwrite(fd, b"paren", 0)
d = os.open(".", os.O_RDONLY); os.fsync(d)
"""

STREAM = """
import ctypes, os, sys
place, log = sys.argv[1:]
lib = ctypes.CDLL(None)
assert lib.lms_record(os.fsencode(place), os.fsencode(log))
lib.fopen.restype = ctypes.c_void_p
f = lib.fopen(os.fsencode(place + "/stream"), b"w")
lib.fwrite(b"unseen", 1, 6, ctypes.c_void_p(f)); lib.fclose(ctypes.c_void_p(f))
"""


def recorded(program: str, tmp_path: Path) -> tuple[Path, Replay]:
    made, place, log = recorder(tmp_path), tmp_path / "place", tmp_path / "log"
    place.mkdir()
    subprocess.run(
        [sys.executable, "-c", program, str(place), str(log)], check=True, env={**os.environ, "LD_PRELOAD": str(made)}
    )
    return place, replayed(log)


@needs_compiler
def test_the_recorder_sees_every_way_to_write(tmp_path: Path) -> None:
    place, replay = recorded(DEEDS, tmp_path)
    medium = after_all(*(op for op in replay.operations if not isinstance(op, Marked)))
    there = {str(file.relative_to(place)): file.read_bytes() for file in place.rglob("*") if file.is_file()}
    assert {name: medium.content(name) for name in medium.all_names()} == there
    assert set(there) == {"plain", "at", "bus/two", "copied", "sync"}
    assert there["at"].startswith(b"paren")
    assert Marked(7) in replay.operations
    assert not replay.unseen
    certain = Medium()
    for op in replay.operations:
        certain.advance(op)
    assert "sync" in certain.names
    sectors, length = certain.files[certain.names["sync"]]
    assert (sectors[0], length) == (b"s", 1), "a write to a file opened with O_DSYNC is a sync"


@needs_compiler
def test_what_the_recorder_does_not_see_is_noticed(tmp_path: Path) -> None:
    place, replay = recorded(STREAM, tmp_path)
    assert (place / "stream").read_bytes() == b"unseen"
    medium = after_all(*(op for op in replay.operations if not isinstance(op, Marked)))
    assert medium.all_names() == set()


def trial_of(harness: ReferenceHarness) -> Trial:
    engine = engine_of(harness, profile("quick"), 20)
    unhurried = replace(engine.profile, example_seconds=math.inf)  # as many moments on a busy machine as on a quiet one
    return Trial(harness, engine.caps, engine.have, unhurried, random.Random(20))


PROGRAM = [("put", "a", 11, 5000, 1), ("flush",), ("put", "a", 12, 700, 2), ("put", "b", 13, 5000, 3), ("remove", "a")]


@needs_compiler
@pytest.mark.leaks_allowed
def test_what_a_key_may_hold_follows_from_what_was_promised() -> None:
    trial = trial_of(ReferenceHarness("power-files"))
    run = Run(trial, PROGRAM)
    assert not run.unseen
    end, old, new, other = len(run.operations), Chunk(11, 5000, 1), Chunk(12, 700, 2), Chunk(13, 5000, 3)
    assert run.may("a", end, "put") == [None]
    assert run.may("a", end, "flush") == [old, new, None, None]
    assert run.may("a", end, None) == [old, new, None, None]
    assert run.may("b", end, "put") == [other]
    assert run.may("b", end, "flush") == [other, None]
    assert run.may("a", 0, "put") == [None]
    flushed = run._marks[3] + 1
    assert run.may("a", flushed, "flush") == [old]
    assert after(trial, run, "put") > 4
    trial.end()


@needs_compiler
@pytest.mark.leaks_allowed
def test_a_promise_that_is_not_kept_is_a_violation() -> None:
    trial = trial_of(MutantHarness("flushes-names-alone"))
    with pytest.raises(Violation, match="it is lost"):
        after(trial, Run(trial, [*PROGRAM, ("flush",), ("put", "c", 14, 700, 1)]), "flush")
    trial.end()
