"""What a child of the zygote does with a backend before it is killed; what it says, the parent may rely on."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from lms_conformance.chunks import Chunk, difference, key
from lms_conformance.damage import files_below
from lms_conformance.inside import INSIDE, telling
from lms_conformance.line import Line
from lms_conformance.peers import serve_peer
from lms_conformance.power.jobs import open_images, run_recorded
from lms_conformance.reading_ways import read_ways
from lms_conformance.recipes import load_harness
from lms_conformance.servers import serve_here
from lms_tiers.errors import LmsTiersError
from lms_tiers.interface import LMSBackendInterface

#: A user that owns nothing, where the tests run as root, whom no mode bits stop.
NOBODY: Final = 65534


def child(job: dict[str, Any], path: str) -> None:
    """Connect, do the job, say ``done`` or what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    line = Line(connection)
    serve_here(Path(path).parent)
    try:
        line.say({"pid": os.getpid()})
        JOBS[job["name"]](job, line)
        line.say({"done": True})
    except LmsTiersError as error:
        line.say({"raised": type(error).__name__, "message": str(error), "typed": True})
    except BaseException as error:
        line.say(
            {"raised": type(error).__name__, "message": str(error), "typed": False, "trace": traceback.format_exc()}
        )
    finally:
        sys.stdout.flush()
        os._exit(0)


def _open(job: dict[str, Any], *, reopen: bool = False) -> LMSBackendInterface:
    harness = load_harness(job["recipe"])
    return (harness.reopen if reopen else harness.open)(Path(job["path"]), job["capacity"])


def chunk_of(text: list[Any]) -> Chunk:
    """A chunk as it travels in a job: seed, size, kind."""
    return Chunk(*text)


def _run(job: dict[str, Any], line: Line) -> None:
    """Operations in order, each acknowledged."""
    backend = _open(job, reopen=job.get("reopen", False))
    line.say({"open": True})
    for i, (kind, k, *rest) in enumerate(job["program"]):
        match kind:
            case "put":
                chunk = chunk_of(rest)
                backend.put(chunk.message(key(k)), chunk.data())
            case "remove":
                backend.remove(key(k))
            case "flush":
                backend.flush()
        line.say({"ack": i})
    if job.get("close"):
        backend.close()
    else:
        signal.pause()  # until the kill: an orderly end would save what a crash must not lose


def _overwrite(job: dict[str, Any], line: Line) -> None:
    """One flushed chunk, then overwrites without end."""
    backend = _open(job)
    versions = [chunk_of(text) for text in job["versions"]]
    ready = [(c.message(key("a")), c.bytes()) for c in versions]
    backend.put(ready[0][0], bytearray(ready[0][1]))
    backend.flush()
    line.say({"flushed": True})
    i = 0
    with telling(job["flag"]) as inside:
        while True:
            i += 1
            message, data = ready[i % len(ready)]
            inside[0] = INSIDE
            backend.put(message, bytearray(data))
            inside[0] = 0
            if i % 3 == 0:
                backend.flush()


def _read(job: dict[str, Any], line: Line) -> None:
    """Open what was damaged and compare every key with the chunks it may hold."""
    backend = _open(job, reopen=True)
    line.say({"open": True})
    for k, texts in job["expected"].items():
        obj = backend.get(key(k))
        wrong = [difference(chunk_of(text), obj) for text in texts]
        line.say({"key": k, "found": obj is not None, "wrong": None if obj is None or None in wrong else wrong[0]})
    line.say({"keys": [k.to_string() for k in backend.list_keys()]})
    backend.close()


def _full_disk(job: dict[str, Any], line: Line) -> None:
    """Puts beyond what the medium takes, then again after there is room."""
    path = Path(job["path"])
    backend = _open(job)
    small, big = Chunk(3, 100_000), Chunk(11, 12 << 20)
    backend.put(small.message(key("a")), small.data())
    backend.flush()
    largest = max((f.stat().st_blocks * 512 for f in files_below(path)), default=0)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest + (1 << 20), hard))
    for k in ("big", "a"):
        answer: dict[str, Any] = {"put": k}
        try:
            backend.put(big.message(key(k)), big.data())
            answer["returned"] = True
            backend.flush()
        except LmsTiersError as error:
            answer["typed"] = type(error).__name__
        except Exception as error:
            answer["untyped"] = f"{type(error).__name__}: {error}"
        obj = backend.get(key(k))
        answer["old"] = k == "a" and difference(small, obj) is None
        answer["new"] = difference(big, obj) is None
        answer["found"] = obj is not None
        line.say(answer)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    last = Chunk(12, 50_000)
    backend.put(last.message(key("z")), last.data())
    line.say({"after": difference(last, backend.get(key("z")))})
    backend.flush()
    backend.close()


def _read_only(job: dict[str, Any], line: Line) -> None:
    """Open a directory in which nothing can be created."""
    scratch = _open({**job, "path": job["scratch"]})  # everything that is imported late is imported now
    scratch.close()
    if os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    backend = _open(job)
    line.say({"open": True})
    chunk = Chunk(3, 100)
    try:
        backend.put(chunk.message(key("a")), chunk.data())
        backend.flush()
    finally:
        backend.close()


JOBS: Final[Mapping[str, Callable[[dict[str, Any], Line], None]]] = {
    "run": _run,
    "overwrite": _overwrite,
    "read": _read,
    "read ways": lambda job, line: read_ways(_open(job, reopen=True), job["chunks"], line),
    "full disk": _full_disk,
    "read only": _read_only,
    "peer": serve_peer,
    "recorded": run_recorded,
    "images": open_images,
}
