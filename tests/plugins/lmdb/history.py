"""Drawn runs of a store, and what each key may hold after any moment of one."""

from __future__ import annotations

import faulthandler
import functools
import io
import os
import random
import struct
import sys
from pathlib import Path
from typing import Any

import xxhash

from lms_tiers.messages import OpaqueKey
from lms_tiers.plugins.lmdb import salvage
from lms_tiers.plugins.lmdb.backend import LmdbBackend
from tests.plugins.lmdb.power import Recorder

#: What a key holds: seed and length of a put, or None.
State = tuple[int, int] | None


def softer(content: Any) -> Any:
    """The same contents, as bytes that a codec halves."""

    @functools.cache  # asked for at every image
    def soft(seed: int, length: int) -> bytearray:
        return bytearray(byte & 15 for byte in content(seed, length)[:-8]) + bytes(content(seed, length)[-8:])

    return soft


class Walker:
    """Stands for the child that walks an index: a fork of this process which lives until it dies of one.

    Called as `subprocess.Popen` is, it answers itself, with what the walk wrote and how it ended.
    """

    def __init__(self) -> None:
        self._pid = 0
        self._status = 0
        self.stdout: io.BytesIO = io.BytesIO()

    def __call__(self, command: list[str], **_: Any) -> Walker:
        if not self._pid:
            self._fork()
        self._ask.write(os.fsencode(command[-1]) + b"\n")
        head = self._answers.read(_ANSWER.size)
        if len(head) < _ANSWER.size:
            self.stdout, self._status = io.BytesIO(), self._ended()
        else:
            self._status, nbytes = _ANSWER.unpack(head)
            self.stdout = io.BytesIO(self._answers.read(nbytes))
        return self

    def wait(self) -> int:
        return self._status

    def kill(self) -> None:
        """It has walked."""

    def end(self) -> None:
        """Reap it."""
        if self._pid:
            self._ended()

    def _fork(self) -> None:
        (theirs, ask), (answers, mine) = os.pipe(), os.pipe()
        self._pid = os.fork()
        if not self._pid:
            try:
                os.close(ask)
                faulthandler.disable()
                with os.fdopen(theirs, "rb") as asked, os.fdopen(mine, "wb") as told:
                    for line in asked:
                        told.write(_walk(os.fsdecode(line[:-1])))
                        told.flush()
            finally:
                os._exit(0)
        os.close(theirs)
        os.close(mine)
        self._ask, self._answers = os.fdopen(ask, "wb", buffering=0), os.fdopen(answers, "rb")

    def _ended(self) -> int:
        self._ask.close()
        self._answers.close()
        pid, self._pid = self._pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


#: Before what a walk wrote: its exit status, and how many bytes.
_ANSWER = struct.Struct("<iI")


def _walk(path: str) -> bytes:
    status, out = 0, io.BytesIO()
    sys.stdout = io.TextIOWrapper(out)
    try:
        salvage.main(path)
    except SystemExit as ended:
        status = int(str(ended.code))
    sys.stdout.flush()
    return _ANSWER.pack(status, len(out.getvalue())) + out.getvalue()


class History:
    """What a run did: for each moment, what a key may hold after a power loss, or with `sync="commit"` after a kill."""

    def __init__(self, sync: str) -> None:
        self.sync = sync
        #: (operations recorded before, key, state): begun; and how many had been recorded when it returned.
        self.changes: list[tuple[int, int, str, State]] = []
        self.flushes: list[tuple[int, int]] = []

    def states(self) -> set[tuple[str, State]]:
        """Every state that a key was in: a moment of the run at which it returned shows it where nothing is lost."""
        return {(key, state) for _, _, key, state in self.changes}

    def may(self, key: str, moment: int) -> set[State]:
        """The states that `key` may be in if the power went after `moment` operations."""
        begun = [change for change in self.changes if change[0] <= moment and change[2] == key]
        firm: int | None = None
        for number, (_, done, _, _) in enumerate(begun):
            if done > moment:
                continue
            flushed = any(done <= start and end <= moment for start, end in self.flushes)
            if self.sync == "commit" or (self.sync == "batch" and flushed):
                firm = number
        if firm is None:
            return {None} | {state for _, _, _, state in begun}
        rest = [state for _, _, _, state in begun[firm:]]
        return set(rest) | ({None} if len(rest) > 1 else set())


class Asked:
    """Images that were asked already: the next moment's are often the last one's, and the same may be in them."""

    def __init__(self) -> None:
        self._seen: set[tuple[bytes, str]] = set()

    def before(self, where: Path, may: dict[str, set[State]]) -> bool:
        """Whether these very files were asked for these very states; from now on they were."""
        digest = xxhash.xxh3_128()
        for path in sorted(where.iterdir()):
            content = path.read_bytes()
            digest.update(f"{path.name} {len(content)} ".encode())
            digest.update(content)
        told = {key: sorted(states, key=str) for key, states in may.items()}
        image = digest.digest(), str(told)
        seen = image in self._seen
        self._seen.add(image)
        return seen


def play(
    backend: LmdbBackend, recorder: Recorder, history: History, draw: random.Random, message: Any, content: Any
) -> None:
    """A drawn run: puts, overwrites, batches, removes, flushes, checkpoints."""
    number = 0

    def state() -> tuple[int, int]:
        nonlocal number
        number += 1
        return number, draw.choice([0, 700, 5000, 30_000])

    def put(states: dict[str, tuple[int, int]]) -> None:
        begun = len(recorder.ops)
        items = [(message(key, new[1]), content(*new)) for key, new in states.items()]
        backend.put_many(items) if len(items) > 1 else backend.put(*items[0])
        history.changes += [(begun, len(recorder.ops), key, new) for key, new in states.items()]

    for _ in range(14):
        kind, keys, begun = draw.random(), [f"k{i}" for i in draw.sample(range(5), 3)], len(recorder.ops)
        if kind < 0.45:
            put({keys[0]: state()})
        elif kind < 0.6:
            put({key: state() for key in keys})
        elif kind < 0.75:
            backend.remove(OpaqueKey(keys[0]))
            history.changes.append((begun, len(recorder.ops), keys[0], None))
        elif kind < 0.9:
            backend.flush()
            history.flushes.append((begun, len(recorder.ops)))
        else:
            backend._checkpoints.make()


def matching(backend: LmdbBackend, key: str, may: set[State], content: Any) -> set[State]:
    """Those of the states that `key` may be in; states of no bytes are like each other."""
    obj = backend.get(OpaqueKey(key))
    if obj is None:
        return may & {None}
    return {state for state in may if state is not None and bytes(obj.data) == bytes(content(*state))}


def held(backend: LmdbBackend, key: str, may: set[State], content: Any) -> bool:
    """Whether `key` is in one of the states."""
    return bool(matching(backend, key, may, content))
