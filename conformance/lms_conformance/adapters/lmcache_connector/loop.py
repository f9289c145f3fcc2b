"""LMCache's loop, in a thread of its own, and calls of coroutines that are under way on it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

from lms_conformance import gauges
from lms_conformance.adapters.driven import Driven
from lms_conformance.violation import violate

Make = Callable[[], Coroutine[Any, Any, Any]]


class Loop:
    """An event loop in a thread, as LMCache has one for its backends."""

    def __init__(self) -> None:
        self.loop: Final = asyncio.new_event_loop()
        self.thread: Final = threading.Thread(target=self.loop.run_forever, daemon=True, name="conformance-loop")
        self.thread.start()

    def begin(self, make: Make, told: list[Call] | None = None, cancel: bool = False) -> Call:
        """Begin a coroutine; answers when its first step has been taken. It is `told` before that.

        With `cancel` it is cancelled before the loop turns again: what is not done in one step is not done.
        """
        call = Call(self.loop, cancel)
        if told is not None:
            told.append(call)
        self.loop.call_soon_threadsafe(call.start, make)
        call.settled(call.stepped, "the first step of a call")
        return call

    def turn(self) -> None:
        """Wait until the loop has turned."""
        turned = concurrent.futures.Future[None]()
        self.loop.call_soon_threadsafe(turned.set_result, None)
        Call.settled(turned, "LMCache's loop to turn")

    def end(self) -> None:
        """Cancel what is left, and end."""

        async def rest() -> None:
            left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in left:
                task.cancel()
            await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0)), *left], timeout=5)

        with contextlib.suppress(concurrent.futures.TimeoutError):
            asyncio.run_coroutine_threadsafe(rest(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        if gauges.ends(self.thread, 10):
            self.loop.close()


class Call:
    """A call that is under way.

    Attributes
    ----------
    at_once : bool
        Whether its first step was its last.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, cancel: bool = False) -> None:
        self._loop = loop
        self._cancel = cancel
        self.stepped: Final = concurrent.futures.Future[None]()
        self._ended: Final = concurrent.futures.Future[asyncio.Task[Any]]()
        self.at_once = False

    def start(self, make: Make) -> None:
        """On the loop: its first step is taken before `stepped` is told."""
        self._task = self._loop.create_task(make())
        self._task.add_done_callback(self._ended.set_result)
        self._loop.call_soon(self._after)

    def _after(self) -> None:
        self.at_once = self._task.done()
        if self._cancel:
            self._task.cancel()
        self.stepped.set_result(None)

    @staticmethod
    def settled(future: concurrent.futures.Future[Any], what: str) -> Any:
        """What a future says; a violation where it takes too long."""
        try:
            return future.result(Driven.patience * gauges.busy())
        except concurrent.futures.TimeoutError:
            violate(f"{what} to end within {Driven.patience:g} s", "it did not")

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._ended.done()

    @property
    def cancelled(self) -> bool:
        """Whether it ended by being cancelled."""
        return self._ended.done() and self._ended.result().cancelled()

    def cancel(self, after: float = 0) -> None:
        """Cancel it, as LMCache does where it takes too long, `after` so many seconds; from any thread.

        At once is before whatever its present step hands to a thread is done: on a busy loop, too.
        """
        if after:
            self._loop.call_soon_threadsafe(lambda: self._loop.call_later(after, self._task.cancel))
        else:
            self._loop.call_soon_threadsafe(self._task.cancel)

    def wait(self, what: str) -> Any:
        """What it answers; raises what it raises, `CancelledError` of `concurrent.futures` where it was cancelled."""
        task = self.settled(self._ended, what)
        if task.cancelled():
            raise concurrent.futures.CancelledError(what)
        return task.result()

    def left(self, what: str) -> Any:
        """What it answers; None where it was cancelled or raises."""
        task = self.settled(self._ended, what)
        return None if task.cancelled() or task.exception() else task.result()
