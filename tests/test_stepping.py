"""The tool that stops threads does not stop a test that needs what a stopped thread holds."""

from __future__ import annotations

import threading

import pytest

from tests import stepping

LOCK = threading.Lock()


def hold() -> None:
    with LOCK:
        pass


def test_a_thread_that_stands_with_a_lock_goes_on_where_the_test_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepping, "PATIENCE", 3600.0)
    for stop in stepping.each_stop(__file__, ("hold",), "holder"):
        holder = threading.Thread(target=hold, name="holder")
        holder.start()
        assert LOCK.acquire(timeout=60), f"at opcode {stop.nth} it never let go"
        LOCK.release()
        stop.beside(holder.is_alive)
        holder.join()
