"""Another process that has the same place open: what it is told, what it does, and what it says."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lms_conformance import gauges
from lms_conformance.chunks import Chunk, difference, key
from lms_conformance.history import Call, History
from lms_conformance.inside import INSIDE, flag_of, stop_in_a_put, telling
from lms_conformance.line import Line
from lms_conformance.races import Execution, Mix, Threads
from lms_conformance.recipes import load_harness
from lms_conformance.servers import serve_at
from lms_conformance.spawned import Job, zygote
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import Violation, violate
from lms_tiers.interface import LMSBackendInterface

#: Seconds that a process stands inside a put at most, as much longer as the machine is busy.
_STANDS: Final = 0.1


class Peer:
    """A process beside this one with a backend of its own on the place of `subject`.

    Parameters
    ----------
    trial : Trial
    job : Job
        Runs `serve_peer`.
    """

    def __init__(self, trial: Trial, job: Job) -> None:
        self._trial = trial
        self._job = job
        self._inside: Path | None = None
        self._hear("to open the place")

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._job.pid

    def _hear(self, what: str) -> dict[str, Any]:
        message = self._job.hear()
        if message is None:
            violate(f"the other process {what}", "its end")
        if "raised" in message:
            violate(f"the other process {what}", f"{message['raised']}: {message['message']}")
        if "violation" in message:
            expected, got = message["violation"]
            raise Violation(f"in the other process {expected}", got)
        return message

    def _ask(self, said: str, **order: Any) -> dict[str, Any]:
        self._trial.record(f"# another process: {said}")
        self._job.say(order)
        return self._hear(f"to do {said}")

    def put(self, k: str, chunk: Chunk) -> None:
        """`put`, which has returned there."""
        self._ask(f"put({k!r}, {chunk!r})", do="put", key=k, chunk=_told(chunk))

    def remove(self, k: str) -> None:
        """`remove`, which has returned there."""
        self._ask(f"remove({k!r})", do="remove", key=k)

    def flush(self) -> None:
        """`flush`, which has returned there."""
        self._ask("flush()", do="flush")

    def close(self) -> None:
        """Close in an orderly way; the process then ends."""
        self._ask("close()", do="close")

    def expect(self, model: Mapping[str, Chunk], absent: Sequence[str] = ()) -> None:
        """There, too, the place holds exactly `model`: every way to ask agrees."""
        told = {k: _told(chunk) for k, chunk in model.items()}
        self._ask(f"reads and lists {sorted(model)}", do="expect", model=told, absent=list(absent))

    def overwrite(self, k: str, versions: Sequence[Chunk]) -> None:
        """From now on it overwrites `k` with these, over and over, and says nothing: kill it."""
        told = [_told(chunk) for chunk in versions]
        self._inside = flag_of(self._trial)
        self._ask(f"overwrites {k!r} for ever", do="overwrite", key=k, versions=told, flag=str(self._inside))

    def race(self, execution: Execution, program: Threads) -> None:
        """One half of the threads there, the other half here, all at one time; both histories are in `execution`'s."""
        half = len(program) // 2
        execution.know(program)
        self._job.say(
            {"do": "race", "mix": dataclasses.asdict(execution.mix), "program": program, "first": half,
             "seed": execution.seed}
        )  # fmt: skip
        self._hear("to get ready")
        self._job.say({"go": True})
        self._trial.threads(execution.work(program[:half]), 60, "calls beside another process")
        self._trial.ran(sum(map(len, program)))
        for told in self._hear("to run its threads")["calls"]:
            execution.history.calls.append(Call(**told))

    @contextlib.contextmanager
    def stopped_in_a_put(self) -> Iterator[None]:
        """Within the block it stands inside a put of `overwrite`; not for ever: who waits for its lock goes on."""
        assert self._inside is not None
        stop_in_a_put(self._trial, self._job, self._inside)
        self._trial.record("# the other process is stopped inside a put")
        timer = threading.Timer(_STANDS * gauges.busy(), self._job.heal)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            self._job.heal()

    def kill(self, inside: bool = False) -> None:
        """SIGKILL, now; or `inside` a put of `overwrite`, where it is found in one."""
        if inside and self._inside is not None:
            stop_in_a_put(self._trial, self._job, self._inside)
        self._trial.record("# the other process is killed with SIGKILL")
        self._job.kill()


def _told(chunk: Chunk) -> tuple[int, int, int]:
    return chunk.seed, chunk.size, chunk.kind


@contextlib.contextmanager
def peer(trial: Trial, subject: Subject) -> Iterator[Peer]:
    """Another process that opens the place of `subject` beside it; it is gone after the block."""
    address = trial.harness.start(subject.path, subject.capacity)
    trial.record("# another process opens the same place")
    with zygote().job("peer", trial.harness, subject.path, subject.capacity, server=address) as job:
        try:
            yield Peer(trial, job)
        finally:
            with contextlib.suppress(ProcessLookupError):
                job.kill()


# -- the other process ---------------------------------------------------------------------------------------------


def serve_peer(job: dict[str, Any], line: Line) -> None:
    """Do what the other process says until it hangs up or says close."""
    if job["server"]:
        serve_at(job["server"])
    backend = load_harness(job["recipe"]).open(Path(job["path"]), job["capacity"])
    line.say({"open": True})
    while (order := line.hear()) is not None:
        try:
            line.say(_ORDERS[order["do"]](backend, order, line))
        except Violation as violation:
            line.say({"violation": [violation.expected, violation.got]})
        if order["do"] == "close":
            return


def _put(backend: LMSBackendInterface, order: dict[str, Any], line: Line) -> dict[str, Any]:
    chunk = Chunk(*order["chunk"])
    backend.put(chunk.message(key(order["key"])), chunk.data())
    return {}


def _remove(backend: LMSBackendInterface, order: dict[str, Any], line: Line) -> dict[str, Any]:
    backend.remove(key(order["key"]))
    return {}


def _flush(backend: LMSBackendInterface, order: dict[str, Any], line: Line) -> dict[str, Any]:
    backend.flush()
    return {}


def _close(backend: LMSBackendInterface, order: dict[str, Any], line: Line) -> dict[str, Any]:
    backend.close()
    return {}


def _expect(backend: LMSBackendInterface, order: dict[str, Any], line: Line) -> dict[str, Any]:
    model = {k: Chunk(*told) for k, told in order["model"].items()}
    asked = [*model, *order["absent"]]
    many = backend.get_many([key(k) for k in asked])
    for k, among in zip(asked, many, strict=True):
        for way, found in (("get", backend.get(key(k))), ("get_many", among)):
            wrong = difference(model[k], found) if k in model else (found and "a chunk")
            if wrong is not None:
                violate(f"{way} of {k!r} to answer {model.get(k)!r}", wrong)
    told = backend.contains_many([key(k) for k in asked])
    if told != [k in model for k in asked] or told != [backend.contains(key(k)) for k in asked]:
        violate(f"contains_many of {asked} and contains to answer {[k in model for k in asked]}", told)
    for way, texts in (
        ("list_keys", sorted(k.to_string() for k in backend.list_keys())),
        ("scan", sorted(info.key.to_string() for info in backend.scan())),
    ):
        if texts != sorted(model):
            violate(f"{way} to answer {sorted(model)}", texts)
    return {}


def _overwrite(backend: LMSBackendInterface, order: dict[str, Any], line: Line) -> dict[str, Any]:
    ready = [(c.message(key(order["key"])), c.bytes()) for c in (Chunk(*told) for told in order["versions"])]
    line.say({})
    with telling(order["flag"]) as inside:
        while True:
            for message, data in ready:
                inside[0] = INSIDE
                backend.put(message, bytearray(data))
                inside[0] = 0


def _race(backend: LMSBackendInterface, order: dict[str, Any], line: Line) -> dict[str, Any]:
    told: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in order["mix"].items()}
    mix = Mix(**told)
    program: Threads = [[(kind, tuple(ks), number) for kind, ks, number in steps] for steps in order["program"]]
    execution = Execution([backend], mix, order["seed"], History(clock=time.monotonic_ns))
    execution.know(program)
    line.say({"ready": True})
    line.hear()
    errors: list[BaseException] = []

    def work(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    mine = program[order["first"] :]
    threads = [threading.Thread(target=work, args=(call,)) for call in execution.work(mine, order["first"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return {"calls": [dataclasses.asdict(call) for call in execution.history.calls]}


_ORDERS: Final[Mapping[str, Callable[[LMSBackendInterface, dict[str, Any], Line], dict[str, Any]]]] = {
    "put": _put, "remove": _remove, "flush": _flush, "close": _close, "expect": _expect, "overwrite": _overwrite,
    "race": _race,
}  # fmt: skip
