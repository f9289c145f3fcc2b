"""`Writer`: how objects are written and removed so that nobody ever finds neither the old chunk nor the new one."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from lms_tiers.apart import Apart, FailedError, Lane
from lms_tiers.errors import OutcomeUnknownError, StorageFullError, StorageUnavailableError
from lms_tiers.plugins.mooncake.chunk import HEAD, NUMBER, names_of, pack_into
from lms_tiers.remote import Ready

#: Numbers of the engine (its `ErrorCode`): no room; too small a buffer; not there, or not yet; a name that is taken, or
#: a write that somebody else has overtaken.
FULL: Final = {-200, -1700, -1602}
INVALID: Final = -600
ABSENT: Final = {-703, -704, -710, -712}
_OVERTAKEN: Final = {-601, -700, -703, -704, -705, -713, -714}


def exist(lane: Lane, until: float, names: Sequence[str]) -> list[int]:
    """1 for each name that is there, else 0."""
    codes = lane.ask(until, "exist", names) if names else []
    if any(code < 0 for code in codes):
        raise FailedError(f"it answers {min(codes)}")
    return list(codes)


class Writer:
    """Writes of one backend. `where` and `prefix` are for errors and names, `timeout` is in seconds."""

    def __init__(self, client: Apart, where: str, prefix: str, timeout: float) -> None:
        self._client: Final = client
        self._where: Final = where
        self._prefix: Final = prefix
        self._timeout: Final = timeout
        self._writers: Final = [threading.Lock() for _ in range(64)]

    def put(self, window: Sequence[Ready]) -> list[StorageUnavailableError]:
        """Store chunks; answers what went wrong with some of them."""
        until = time.monotonic() + self._timeout
        patience = time.monotonic() + min(self._timeout / 4, 1)
        failures: list[StorageUnavailableError] = []
        sent, pause, turn = False, 0.001, 0
        try:
            with self._alone([text for text, _, _ in window], until), self._client.lane(until) as lane:
                while True:
                    late = time.monotonic() > patience
                    before = self._numbers(lane, until, [text for text, _, _ in window])
                    if late:  # who left two of a key will not settle it any more
                        self._settle(lane, until, [text for text, _, _ in window])
                    names, places, sizes = self._packed(lane, window, before, turn)
                    sent = True
                    answers = lane.ask(until, "seize" if late else "write", names, places, sizes)
                    stored = [one for one, (code, _) in zip(window, answers, strict=True) if code == 0]
                    self._settle(lane, until, [text for text, _, _ in stored])
                    failures += [self._refusal(*told) for told in answers if told[0] and told[0] not in _OVERTAKEN]
                    window = [one for one, (code, _) in zip(window, answers, strict=True) if code in _OVERTAKEN]
                    if not window:
                        return failures
                    if time.monotonic() + pause > until:
                        raise FailedError("others write the same key all the time", True)
                    time.sleep(pause)  # for those who are writing it
                    pause, turn = min(2 * pause, 0.05), turn + 1
        except FailedError as error:
            return [*failures, self._failed(error, "put" if sent else "")]

    def _packed(
        self, lane: Lane, window: Sequence[Ready], before: Sequence[list[int]], turn: int
    ) -> tuple[list[str], list[int], list[int]]:
        """Lay chunks into the lane's memory, each for a name that is free, or that counts for less."""
        names, places, sizes, at = [], [], [], 0
        for (text, meta, body), there in zip(window, before, strict=True):
            # Where both are free somebody who died may have begun to write one of them.
            names.append(names_of(self._prefix, text)[there.index(min(there)) if any(there) else turn % 2])
            places.append(at)
            sizes.append(pack_into(lane.memory[at:], text, meta, body, max(there)))
            at += len(body) + HEAD
        return names, places, sizes

    def _numbers(self, lane: Lane, until: float, texts: Sequence[str]) -> list[list[int]]:
        """The numbers of what lies under both names of each key; 0 where nothing does."""
        names = [name for text in texts for name in names_of(self._prefix, text)]
        numbers = dict.fromkeys(names, 0)
        there = [name for name, code in zip(names, exist(lane, until, names), strict=True) if code]
        if there:
            places = [i * NUMBER.size for i in range(len(there))]
            codes = lane.ask(until, "leads", there, places, [NUMBER.size] * len(there))
            for name, place, code in zip(there, places, codes, strict=True):
                if code == NUMBER.size:
                    numbers[name] = NUMBER.unpack_from(lane.memory, place)[0]
                elif code == INVALID:
                    numbers[name] = 1  # too short to be a chunk: it counts for less than any
                elif code not in ABSENT:
                    raise FailedError(f"it answers {code}")
        return [[numbers[name] for name in names_of(self._prefix, text)] for text in texts]

    def _settle(self, lane: Lane, until: float, texts: Sequence[str]) -> None:
        """Remove what a put has overtaken: of two objects of a key the one with the lower number."""
        left = []
        for text, there in zip(texts, self._numbers(lane, until, texts), strict=True):
            if all(there):
                left.append(names_of(self._prefix, text)[there.index(min(there))])
        self._remove(lane, until, left)

    def _remove(self, lane: Lane, until: float, names: Sequence[str]) -> None:
        for code in lane.ask(until, "remove", names) if names else []:
            if code and code not in ABSENT:  # what somebody is writing now he will settle himself
                raise FailedError(f"it answers {code} to a removal", True)

    def remove(self, texts: Sequence[str]) -> None:
        """Remove the objects of some keys.

        Raises
        ------
        StorageUnavailableError
        """
        until, sent = time.monotonic() + self._timeout, False
        try:
            with self._alone(texts, until), self._client.lane(until) as lane:
                self._settle(lane, until, texts)  # else a chunk that was overwritten could be seen again
                sent = True
                self._remove(lane, until, [name for text in texts for name in names_of(self._prefix, text)])
        except FailedError as error:
            raise self._failed(error, "remove" if sent else "") from None

    def _alone(self, texts: Sequence[str], until: float) -> ExitStack:
        """No two writers of this process at one key: the engine takes them for one."""
        with ExitStack() as stack:
            for number in sorted({hash(text) % len(self._writers) for text in texts}):
                if not self._writers[number].acquire(timeout=max(until - time.monotonic(), 0)):
                    raise FailedError("another call writes the same key")
                stack.callback(self._writers[number].release)
            return stack.pop_all()

    def _refusal(self, code: int, doubtful: bool) -> StorageUnavailableError:
        if code in FULL:
            return StorageFullError(self._where, f"is full ({code}): give it more nodes, or let leases end sooner.")
        if doubtful:
            return OutcomeUnknownError(self._where, "put", f"it answers {code}.")
        return StorageUnavailableError(self._where, f"cannot write: it answers {code}.")

    def _failed(self, error: FailedError, operation: str) -> StorageUnavailableError:
        if operation:
            return OutcomeUnknownError(self._where, operation, f"{error}.")
        return StorageUnavailableError(self._where, f"cannot be asked: {error}.")
