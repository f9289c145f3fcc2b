"""A metrics port's places come back, and nothing stays of a port that could not start."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from lms_tiers.errors import StorageUnavailableError
from lms_tiers.metrics.collector import StoreCollector
from lms_tiers.metrics.port import MetricsPort
from lms_tiers.metrics.scrape import scrape


def no_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_requests_that_no_thread_could_be_started_for_give_their_places_back(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MetricsPort([StoreCollector(bench.store)]) as port:
        address = f"127.0.0.1:{port.port}"
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            for _ in range(10):
                with pytest.raises(StorageUnavailableError):
                    scrape(address)
        assert scrape(address).healthy


def test_a_port_whose_thread_cannot_be_started_listens_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="new thread"):
            MetricsPort([])
