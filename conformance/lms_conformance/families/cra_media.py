"""CRA, by the medium: stored bytes that were flipped or cut short, a full disk, a directory that cannot be written."""

from __future__ import annotations

from typing import Any

from lms_conformance.chunks import KIB, MIB, Chunk
from lms_conformance.families.cra import expect_one_of, room_of
from lms_conformance.spawned import zygote
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate


def _stored(trial: Trial, chunks: dict[str, Chunk]) -> Subject:
    backend = trial.open(capacity=room_of(trial))
    for k, chunk in chunks.items():
        backend.put(k, chunk)
    backend.flush()
    backend.close()
    trial.harness.stop(backend.path)  # what holds the place would not see the damage, or write over it
    return backend


def _read_in_child(trial: Trial, backend: Subject, expected: dict[str, Chunk], what: str) -> dict[str, bool]:
    """Which keys were found, each exact; a violation for wrong bytes, untyped errors, or the reader's death."""
    texts = {k: [(c.seed, c.size, c.kind)] for k, c in expected.items()}
    found: dict[str, bool] = {}
    opened = done = False
    with zygote().job("read", trial.harness, backend.path, backend.capacity, expected=texts) as job:
        for message in job.messages():
            opened |= "open" in message
            done |= "done" in message
            if message.get("wrong"):
                violate(f"{message['key']!r} to be a miss or exact after {what}", message["wrong"])
            if "key" in message:
                found[message["key"]] = message["found"]
            if "raised" in message:
                done = True
                trial.mark("damage read back")
                typed = message["typed"] and not opened
                expect(
                    typed,
                    f"misses, or a typed error on opening, after {what}",
                    f"{message['raised']}: {message['message']}",
                )
    expect(done, f"the reader to survive {what}", f"it died with status {zygote().status}")
    if not all(found.values()):
        trial.mark("damage read back")
    return found


@prop(
    "CRA-05",
    "A chunk whose stored bytes were flipped is a miss, not data; the others are exact.",
    needs=["persistent", "damage"],
    marks=["damage read back"],
)
def _flipped(trial: Trial) -> None:
    for size in (5000, 300 * KIB, 2 * MIB):
        trial.anew()
        chunks = {k: Chunk(11 + i, size + i, i) for i, k in enumerate("abc")}
        backend = _stored(trial, chunks)
        expect(
            trial.harness.corrupt(backend.path, chunks["b"].bytes()),
            "stored bytes to flip below the place",
            "nothing stored",
        )
        trial.record("# bits of b's stored bytes are flipped; another process reopens and reads")
        found = _read_in_child(trial, backend, chunks, "flipping stored bytes of 'b'")
        for k in "ac":
            expect(found.get(k, True), f"the undamaged {k!r} to be found", "a miss")


@prop(
    "CRA-06",
    "After files are cut short there are misses or a typed error on opening: no wrong data, no death.",
    needs=["persistent", "damage"],
    marks=["damage read back"],
)
def _truncated(trial: Trial) -> None:
    chunks = {f"k{i}": Chunk(11 + i, 200 * KIB + i, i % 8) for i in range(10)}
    backend = _stored(trial, chunks)
    expect(trial.harness.truncate(backend.path), "files to cut below the place", "nothing stored")
    trial.record("# a third is cut off every file; another process reopens and reads")
    _read_in_child(trial, backend, chunks, "cutting files short")


@prop(
    "CRA-07",
    "On a full disk put raises a typed error and loses nothing; with room again it works.",
    needs=["persistent", "local"],
    marks=["put at full"],
)
def _full_disk(trial: Trial) -> None:
    path = trial.directory()
    trial.record("# a process fills what the medium takes (RLIMIT_FSIZE) with put of 12 MiB under 'big' and 'a'")
    done = False
    with zygote().job("full disk", trial.harness, path, room_of(trial)) as job:
        for message in job.messages():
            done |= "done" in message
            if "raised" in message:
                violate("puts on a full disk to raise typed errors", f"{message['raised']}: {message['message']}")
            if "put" in message:
                if "typed" in message or "untyped" in message:
                    trial.mark("put at full")
                _judge_full(message, lenient=trial.caps.evicts)
            if message.get("after"):
                violate("put and get to work once there is room", message["after"])
    expect(done, "the process to survive a full disk", f"it died with status {zygote().status}")
    subject = trial.open(capacity=room_of(trial), path=path)
    options: list[Chunk | None] = [Chunk(3, 100_000), Chunk(11, 12 * MIB)]
    expect_one_of(subject, {"a": [*options, None] if trial.caps.evicts else options, "z": [Chunk(12, 50_000)]})


def _judge_full(message: dict[str, Any], *, lenient: bool) -> None:
    k = message["put"]
    expect("untyped" not in message, f"put of {k!r} on a full disk to raise a typed error", message.get("untyped"))
    if message.get("returned"):
        ok = message["new"] or (lenient and ("typed" in message or not message["found"]))
        expect(ok, f"{k!r}, whose put returned, to be readable", "old bytes or none: the failure was swallowed")
    elif message["found"]:
        expect(message["old"] or message["new"], f"{k!r} to be what it was before the failed put", "other bytes")
    else:
        expect(k == "big", "the old chunk to outlive a failed overwrite", "None: it is lost")


@prop(
    "CRA-08",
    "A directory that cannot be written raises StorageUnavailableError, and is left as it was.",
    needs=["persistent", "local"],
)
def _read_only(trial: Trial) -> None:
    path, scratch = trial.directory(), trial.directory()
    path.chmod(0o555)
    trial.record("# another process, without the right to write there, opens the place")
    ended: dict[str, Any] = {}
    with zygote().job("read only", trial.harness, path, room_of(trial), scratch=str(scratch)) as job:
        for message in job.messages():
            if "raised" in message or "done" in message:
                ended = message
    path.chmod(0o755)
    expect(ended.get("raised") is not None, "an error from a directory that cannot be written", ended or "its death")
    ok = ended.get("raised") in ("StorageUnavailableError", "StorageLockedError")
    expect(ok, "StorageUnavailableError", f"{ended.get('raised')}: {ended.get('message')}")
    expect(not list(path.iterdir()), "the directory left empty", [p.name for p in path.iterdir()])
