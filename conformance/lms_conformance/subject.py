"""A backend under test, recorded: each call becomes a line of Python, errors outside the taxonomy are violations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lms_conformance.chunks import Chunk, difference, key, show
from lms_conformance.record import Record
from lms_conformance.violation import Violation, expect, violate
from lms_tiers.errors import LmsTiersError
from lms_tiers.interface import BackendStats, ChunkInfo, ChunkView, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj

if TYPE_CHECKING:
    import torch


def as_key(k: Any) -> Any:
    """A text as its key; anything else is what the property wants to hand over."""
    return key(k) if isinstance(k, str) else k


def key_code(k: Any) -> str:
    """A key's Python."""
    return f"key({k!r})" if isinstance(k, str) else repr(k)


class Subject:
    """One opened backend. Calls take key texts and `Chunk` values.

    Attributes
    ----------
    backend : LMSBackendInterface
        The backend itself, for calls that must not be recorded.
    """

    def __init__(self, trial: Record, backend: LMSBackendInterface, var: str, path: Path, capacity: int | None) -> None:
        self.trial = trial
        self.backend = backend
        self.var = var
        self.path = path
        self.capacity = capacity

    def do(self, code: str, call: Callable[[], Any], result: str | None = None) -> Any:
        """What `call` answers; `code` is its Python, and an error outside the taxonomy is a violation."""
        line = self.trial.record(f"{result} = {self.var}.{code}" if result else f"{self.var}.{code}")
        try:
            answer = call()
        except LmsTiersError as error:
            line.comment = f"raises {type(error).__name__}"
            raise
        except Violation:
            raise
        except Exception as error:
            line.comment = f"raises {type(error).__name__}"
            raise Violation(
                f"{code.partition('(')[0]} to return, or to raise an error of lms_tiers.errors",
                f"{type(error).__name__}: {error}",
                kind="raised",
            ) from error
        line.comment = _short(answer)
        return answer

    # -- the contract, by key text -----------------------------------------------------------------------------------

    def put(self, k: Any, chunk: Chunk, data: Any = None, code: str | None = None, message: Any = None) -> None:
        """Put `chunk`; `data` (whose Python is `code`) and `message` replace what the chunk would give."""
        data = chunk.data() if data is None else data
        message = chunk.message(as_key(k)) if message is None else message
        text = f"put({chunk!r}.message({key_code(k)}), {code or f'{chunk!r}.data()'})"
        self.do(text, lambda: self.backend.put(message, data))

    def get(self, k: Any) -> LMSMemoryObj | None:
        """`get`."""
        answer: LMSMemoryObj | None = self.do(f"get({key_code(k)})", lambda: self.backend.get(as_key(k)))
        self.trial.ever_hit |= answer is not None
        return answer

    def contains(self, k: Any) -> bool:
        """`contains`."""
        answer: bool = self.do(f"contains({key_code(k)})", lambda: self.backend.contains(as_key(k)))
        return answer

    def remove(self, k: Any) -> None:
        """`remove`."""
        self.do(f"remove({key_code(k)})", lambda: self.backend.remove(as_key(k)))

    def list_keys(self) -> list[CacheEngineKey]:
        """`list_keys`."""
        answer: list[CacheEngineKey] = self.do("list_keys()", self.backend.list_keys)
        return answer

    def keys(self) -> list[str]:
        """The texts of `list_keys`, sorted."""
        return sorted(k.to_string() for k in self.list_keys())

    def put_many(self, items: Sequence[tuple[Any, Chunk]]) -> None:
        """`put_many` of (key text, chunk) pairs."""
        batch: list[tuple[ClientMetaMessage, bytearray]] = [(c.message(as_key(k)), c.data()) for k, c in items]
        code = ", ".join(f"({c!r}.message({key_code(k)}), {c!r}.data())" for k, c in items)
        self.do(f"put_many([{code}])", lambda: self.backend.put_many(batch))

    def get_many(self, ks: Sequence[str]) -> list[LMSMemoryObj | None]:
        """`get_many`."""
        code = f"get_many([{', '.join(key_code(k) for k in ks)}])"
        answer: list[LMSMemoryObj | None] = self.do(code, lambda: self.backend.get_many([as_key(k) for k in ks]))
        return answer

    def contains_prefix(self, ks: Sequence[str]) -> int:
        """`contains_prefix`."""
        code = f"contains_prefix([{', '.join(key_code(k) for k in ks)}])"
        answer: int = self.do(code, lambda: self.backend.contains_prefix([as_key(k) for k in ks]))
        return answer

    def contains_many(self, ks: Sequence[str]) -> list[bool]:
        """`contains_many`."""
        code = f"contains_many([{', '.join(key_code(k) for k in ks)}])"
        answer: list[bool] = self.do(code, lambda: self.backend.contains_many([as_key(k) for k in ks]))
        return answer

    def get_into(self, k: str, buffer: Any) -> ChunkMeta | None:
        """`get_into`."""
        code = f"get_into({key_code(k)}, {type(buffer).__name__})"
        answer: ChunkMeta | None = self.do(code, lambda: self.backend.get_into(as_key(k), buffer))
        return answer

    @contextlib.contextmanager
    def view(self, k: str) -> Iterator[ChunkView | None]:
        """`view`."""
        self.trial.record(f"{self.var}.view({key_code(k)}).__enter__()")
        with self.backend.view(as_key(k)) as view:
            yield view

    def put_tensor(self, k: str, chunk: Chunk, tensor: torch.Tensor, code: str = "tensor") -> None:
        """`put_tensor`."""
        text = f"put_tensor({chunk!r}.message({key_code(k)}), {code})"
        self.do(text, lambda: self.backend.put_tensor(chunk.message(as_key(k)), tensor))

    def get_tensor(self, k: str, out: torch.Tensor | None = None) -> torch.Tensor | None:
        """`get_tensor`."""
        code = f"get_tensor({key_code(k)}{', out=out' if out is not None else ''})"
        answer: torch.Tensor | None = self.do(code, lambda: self.backend.get_tensor(as_key(k), out))
        return answer

    def stats(self) -> BackendStats:
        """`stats`."""
        answer: BackendStats = self.do("stats()", self.backend.stats)
        return answer

    def stored_bytes(self, k: str) -> int | None:
        """`stored_bytes`."""
        answer: int | None = self.do(f"stored_bytes({key_code(k)})", lambda: self.backend.stored_bytes(as_key(k)))
        return answer

    def scan(self) -> list[ChunkInfo]:
        """`scan`, taken to its end."""
        answer: list[ChunkInfo] = self.do("scan()", lambda: list(self.backend.scan()))
        return answer

    def flush(self) -> None:
        """`flush`."""
        self.do("flush()", self.backend.flush)

    def save_state(self, state: bytes) -> None:
        """`save_state`."""
        self.do(f"save_state({state!r})", lambda: self.backend.save_state(state))

    def load_state(self) -> bytes | None:
        """`load_state`."""
        answer: bytes | None = self.do("load_state()", self.backend.load_state)
        return answer

    def close(self) -> None:
        """`close`."""
        self.do("close()", self.backend.close)

    # -- what is expected --------------------------------------------------------------------------------------------

    def expect_chunk(self, k: Any, chunk: Chunk, why: str = "the newest put") -> LMSMemoryObj:
        """`get` answers exactly `chunk`, and `contains` says so."""
        obj = self.get(k)
        code = f"assert same({self.var}.get({key_code(k)}), {chunk!r})"
        wrong = difference(chunk, obj)
        if wrong is not None or obj is None:
            violate(f"get to answer {why}: {chunk!r}", f"{wrong}{self._lost(k, obj)}", code)
        return obj

    def _lost(self, k: Any, obj: LMSMemoryObj | None) -> str:
        if obj is None and not self.trial.ever_hit:
            return " (no chunk put so far could be read back: does `put` store anything?)"
        return ""

    def expect_absent(self, k: Any, why: str = "it was not put, or removed") -> None:
        """`get` answers None and `contains` False."""
        obj = self.get(k)
        expect(
            obj is None,
            f"get to answer None ({why})",
            obj and show(obj.data),
            f"assert {self.var}.get({key_code(k)}) is None",
        )
        found = self.contains(k)
        expect(
            found is False,
            f"contains to answer False ({why})",
            found,
            f"assert not {self.var}.contains({key_code(k)})",
        )

    def expect_keys(
        self, texts: Sequence[str] | set[str] | dict[str, Any], why: str = "every key held, each once"
    ) -> None:
        """`list_keys` answers these, in any order."""
        want, found = sorted(texts), self.keys()
        expect(
            found == want,
            f"list_keys to hold {why}: {_names(want)}",
            _names(found),
            f"assert sorted(k.to_string() for k in {self.var}.list_keys()) == {want!r}" if len(want) < 50 else None,
        )

    def expect_model(self, model: dict[str, Chunk], pool: Sequence[str] = ()) -> None:
        """The backend holds exactly `model`; other keys of `pool` are absent."""
        self.expect_keys(model)
        for k, chunk in model.items():
            self.expect_chunk(k, chunk)
        for k in pool:
            if k not in model:
                self.expect_absent(k)

    def rejects(
        self, error: type[LmsTiersError] | tuple[type[LmsTiersError], ...], call: Callable[[], Any], what: str
    ) -> LmsTiersError:
        """`call` raises `error`; answers what was raised."""
        names = " or ".join(e.__name__ for e in (error if isinstance(error, tuple) else (error,)))
        try:
            answer = call()
        except error as raised:
            return raised
        except LmsTiersError as raised:
            violate(f"{what} to raise {names}", f"{type(raised).__name__}: {raised}")
        except Violation as raised:
            violate(f"{what} to raise {names}", raised.got)
        except Exception as raised:
            violate(f"{what} to raise {names}", f"{type(raised).__name__}: {raised}")
        raise Violation(f"{what} to raise {names}", f"it returned {_short(answer) or 'None'}")

    def allows(self, call: Callable[[], Any], what: str) -> Any:
        """`call` raises nothing."""
        try:
            return call()
        except LmsTiersError as raised:
            violate(f"{what} to raise nothing", f"{type(raised).__name__}: {raised}")
        except Violation as raised:
            violate(f"{what} to raise nothing", raised.got)


def _names(texts: Sequence[str]) -> str:
    shown = ", ".join(repr(t if len(t) < 60 else t[:57] + "…") for t in texts[:8])
    return f"{len(texts)} keys [{shown}{', …' if len(texts) > 8 else ''}]"


def _short(answer: Any) -> str:
    if answer is None:
        return ""
    if isinstance(answer, LMSMemoryObj):
        try:
            return f"-> {show(answer.data)}"
        except (TypeError, ValueError):
            return f"-> {answer.data!r}"[:80]
    if isinstance(answer, list):
        return f"-> {len(answer)} items"
    text = repr(answer)
    return f"-> {text}" if len(text) < 80 else f"-> {text[:77]}…"
