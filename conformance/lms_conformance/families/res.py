"""RES: nothing leaks over many cycles, and the interpreter is not held during long operations."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable

from lms_conformance import gauges
from lms_conformance.chunks import MIB, Chunk, key
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.violation import expect

#: Growth in a run of cycles that may be caches and allocators settling, not a leak.
SLACK = 96 * MIB


def _cycle(trial: Trial, n: int) -> None:
    for i in range(n):
        backend = trial.open()
        backend.put("a", Chunk(i, 5000))
        backend.expect_chunk("a", Chunk(i, 5000))
        backend.flush()
        trial.release(backend)
    gc.collect()


def _settles(measure: Callable[[], int], most: int) -> int:
    """The measure once it is at most `most`, or after some seconds: threads end in their own time."""
    deadline = time.monotonic() + 3
    while True:
        value = measure()
        if value <= most or time.monotonic() > deadline:
            return value
        time.sleep(0.01)


@prop("RES-01", "Descriptors are given back on close: opening and closing for ever needs no more of them.")
def _descriptors_per_open(trial: Trial) -> None:
    with trial.quiet("# open, put, get, close: 3 times, then 8 times more"):
        _cycle(trial, 3)
        before = gauges.descriptors()
        _cycle(trial, 8)
    after = _settles(gauges.descriptors, before + 2)
    expect(after <= before + 2, f"about {before} open descriptors after 8 more cycles", after)


@prop(
    "RES-02", "Operations leave no descriptor open: gets, puts, overwrites and listings for ever need no more of them."
)
def _descriptors_per_call(trial: Trial) -> None:
    backend = trial.open()

    def use(n: int) -> None:
        for i in range(n):
            backend.put(f"k{i % 5}", Chunk(i, 3000))
            backend.get(f"k{i % 5}")
            backend.contains("absent")
            backend.list_keys()
            if trial.caps.remove and i % 7 == 0:
                backend.remove(f"k{i % 3}")
        gc.collect()

    with trial.quiet("# 20 and then 150 rounds of put, get, contains, list_keys and remove"):
        use(20)
        before = gauges.descriptors()
        use(150)
    after = _settles(gauges.descriptors, before + 4)
    expect(after <= before + 4, f"about {before} open descriptors after 150 more rounds", after)


@prop("RES-03", "Threads end with close: opening and closing for ever leaves none behind.")
def _threads(trial: Trial) -> None:
    with trial.quiet("# open, put, get, close: 2 times, then 6 times more"):
        _cycle(trial, 2)
        before, native = gauges.threads(), gauges.native_threads()
        _cycle(trial, 6)
    left = _settles(lambda: len(gauges.threads() - before), 1)
    expect(left <= 1, "no thread left behind by 6 closed backends", f"{left}: {sorted(gauges.threads() - before)}")
    count = _settles(gauges.native_threads, native + 4)
    expect(count <= native + 4, f"about {native} native threads after 6 more cycles", count)


@prop("RES-04", "Memory of overwritten chunks is given back: one key overwritten for ever needs no more of it.")
def _memory_of_overwrites(trial: Trial) -> None:
    backend = trial.open()
    base = Chunk(3, MIB).bytes()

    def overwrite(n: int) -> None:
        for i in range(n):
            data = bytearray(base)
            data[:8] = i.to_bytes(8, "little")
            backend.backend.put(Chunk(literal=bytes(data)).message(key("a")), data)
        gc.collect()

    trial.record("# overwrite one key 30 times and then 260 times with 1 MiB")
    overwrite(30)
    before = gauges.trimmed_bytes()
    overwrite(260)
    trial.ran(290)
    grown = gauges.trimmed_bytes() - before
    expect(grown < SLACK, f"less than {SLACK >> 20} MiB more after 260 MiB of overwrites", f"{grown >> 20} MiB")
    backend.contains("a")


@prop("RES-05", "Memory of answers is given back: reading one key for ever needs no more of it.")
def _memory_of_reads(trial: Trial) -> None:
    backend = trial.open()
    backend.put("a", Chunk(3, MIB))

    def read(n: int) -> None:
        for _ in range(n):
            obj = backend.backend.get(key("a"))
            expect(obj is not None and obj.length == MIB, "a chunk of 1 MiB", obj)
        gc.collect()

    trial.record("# get 1 MiB 30 times and then 260 times")
    read(30)
    before = gauges.trimmed_bytes()
    read(260)
    trial.ran(290)
    grown = gauges.trimmed_bytes() - before
    expect(grown < SLACK, f"less than {SLACK >> 20} MiB more after reading 260 MiB", f"{grown >> 20} MiB")


@prop("RES-06", "Shared memory is given back on close.")
def _shared_memory(trial: Trial) -> None:
    ours: set[str] = set()
    with trial.quiet("# open, put, get, close: 5 times, and again while there are new names"):
        for _ in range(6):  # others have names there too, and make one now and then
            before = gauges.shared_memory()
            _cycle(trial, 5)
            ours = {name for name in gauges.shared_memory() - before if _stays(name)}
            if not ours:
                break
    expect(not ours, "no new name in /dev/shm after close", sorted(ours)[:3])


def _stays(name: str) -> bool:
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        if name not in gauges.shared_memory():
            return False
        time.sleep(0.02)
    return True


#: A call that needs more processor time than this is long.
LONG_SECONDS = 0.010

#: Of the progress that another thread makes while this one sleeps, the part it must make during a long call.
SHARE = 0.05

#: Seconds of processor time that a call may take in one piece while another thread waits for the interpreter, and the
#: part of its whole time: a call that also waits for others (a server) lets the counter run then, and proves nothing.
PIECE_SECONDS = 0.040
PIECE = 0.5


class _Progress:
    """A thread that counts, and offers the interpreter after each step; nobody else is given it but by being let go."""

    def __init__(self) -> None:
        self.count = 0
        #: Most processor time that the thread which made this used between two steps.
        self.piece = 0.0
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self._used = 0.0
        self._stop = False
        self._interval = sys.getswitchinterval()
        self._thread = threading.Thread(target=self._work, daemon=True, name="conformance-progress")

    def _work(self) -> None:
        while not self._stop:
            self.count += 1
            self.look()
            time.sleep(0)

    def look(self) -> None:
        """Note the processor time since the last step."""
        now = time.clock_gettime(self._clock)
        self.piece, self._used = max(self.piece, now - self._used), now

    def __enter__(self) -> _Progress:
        # No thread is made to let go: whoever makes progress was let run by the call itself.
        sys.setswitchinterval(30)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        sys.setswitchinterval(self._interval)
        self._thread.join()

    def rate(self) -> float:
        """Steps per second while nothing else wants the interpreter."""
        before, began = self.count, time.monotonic()
        time.sleep(0.05)
        return (self.count - before) / (time.monotonic() - began)


def _lets_others_run(trial: Trial, call: Callable[[], object], what: str) -> None:
    """Another thread's counter moves during each long `call`; processor time only tells which calls are long."""
    shares = []
    with _Progress() as progress:
        rate = progress.rate()
        for _ in range(6):
            before, began = progress.count, time.thread_time()
            progress.look()
            progress.piece = 0.0
            call()
            progress.look()  # a piece at the call's end
            needed, moved, piece = time.thread_time() - began, progress.count - before, progress.piece
            trial.ran(1)
            if needed < LONG_SECONDS:
                trial.cannot(
                    "a long call", f"{what} of 32 MiB needs less than {LONG_SECONDS * 1000:g} ms of processor time"
                )
                return
            trial.mark("a long call")
            in_one_piece = piece > max(PIECE_SECONDS, PIECE * needed)
            if moved >= SHARE * rate * needed and not in_one_piece:
                return
            shares.append(0.0 if in_one_piece else moved / (rate * needed))
    best = max(shares)
    expect(False, f"another thread to make progress during {what} of 32 MiB", f"{best:.1%} of its pace when left alone")


@prop(
    "RES-07",
    "put of a large chunk releases the interpreter: other threads make progress during it.",
    marks=["a long call"],
)
def _put_releases(trial: Trial) -> None:
    backend = trial.open(capacity=256 * MIB)
    chunk = Chunk(3, 32 * MIB)
    message, data = chunk.message(key("a")), chunk.data()
    spare = [bytearray(data) for _ in range(5)] + [data]
    trial.record("# put 32 MiB while another thread counts")
    _lets_others_run(trial, lambda: backend.backend.put(message, spare.pop()), "put")


@prop(
    "RES-08",
    "get of a large chunk releases the interpreter: other threads make progress during it.",
    marks=["a long call"],
)
def _get_releases(trial: Trial) -> None:
    backend = trial.open(capacity=256 * MIB)
    with trial.quiet("# get 32 MiB while another thread counts"):
        backend.put("a", Chunk(3, 32 * MIB))
        backend.flush()
    _lets_others_run(trial, lambda: backend.backend.get(key("a")), "get")
