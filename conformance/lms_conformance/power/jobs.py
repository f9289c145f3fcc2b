"""The processes of a loss of power, children of `zygote`: one does what is recorded, one opens what may be left."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from lms_conformance.chunks import Chunk, difference, key
from lms_conformance.line import Line
from lms_conformance.recipes import load_harness
from lms_tiers.errors import LmsTiersError
from lms_tiers.interface import LMSBackendInterface


def run_recorded(job: dict[str, Any], line: Line) -> None:
    """The program, each operation between two marks; its end is an orderly close."""
    recorder = ctypes.CDLL(None)
    if not recorder.lms_record(os.fsencode(os.path.realpath(job["path"])), os.fsencode(job["log"])):
        raise RuntimeError("the log of the recorder cannot be written")
    mark = recorder.lms_mark
    mark.argtypes = [ctypes.c_uint64]
    harness, path = load_harness(job["recipe"]), Path(job["path"])
    backend = harness.open(path, job["capacity"])
    for i, (kind, *rest) in enumerate(job["program"]):
        mark(2 * i)
        match kind:
            case "put":
                chunk = Chunk(*rest[1:])
                backend.put(chunk.message(key(rest[0])), chunk.data())
            case "remove":
                backend.remove(key(rest[0]))
            case "flush":
                backend.flush()
            case "close":
                backend.close()
                harness.stop(path)
        mark(2 * i + 1)


def open_images(job: dict[str, Any], line: Line) -> None:
    """Open each place that is named, and say what is found under each key."""
    harness = load_harness(job["recipe"])
    while (order := line.hear()) is not None:
        path = Path(order["image"])
        answer: dict[str, Any] = {"opened": False}
        try:
            with harness.open(path, job["capacity"]) as backend:
                answer["opened"] = True
                answer["keys"] = {k: _found(backend, k, told) for k, told in order["expected"].items()}
                for k, told in order.get("puts", {}).items():
                    chunk = Chunk(*told)
                    backend.put(chunk.message(key(k)), chunk.data())
                if "puts" in order:
                    backend.flush()
                    answer["after"] = {k: _found(backend, k, [told]) for k, told in order["puts"].items()}
        except LmsTiersError as error:
            answer["typed"] = f"{type(error).__name__}: {error}"
        finally:
            harness.stop(path)
        line.say(answer)


def _found(backend: LMSBackendInterface, k: str, told: list[Any]) -> list[Any]:
    """Which of the chunks is there: its place in `told`, -1 for none, or what is wrong."""
    obj = backend.get(key(k))
    if obj is None:
        return [-1, ""]
    wrong = [difference(Chunk(*one), obj) for one in told]
    return [wrong.index(None), ""] if None in wrong else [-2, wrong[0] if wrong else "a chunk, though none was put"]
