"""The life of a serving process: open, announce, wait for signals, reload, drain, flush, close."""

from __future__ import annotations

import contextlib
import logging
import queue
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Final

from lms_tiers.device import parse_device
from lms_tiers.errors import LmsTiersError
from lms_tiers.factory import CreateStorageBackend
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.secrets import mask_location
from lms_tiers.server.memory import ChunkMemory
from lms_tiers.server.reload import reload as take_over
from lms_tiers.server.server import Server
from lms_tiers.server.settings import ServerSettings
from lms_tiers.sizes import format_size

if TYPE_CHECKING:
    from lms_tiers.metrics.port import MetricsPort

_log = logging.getLogger(__name__)

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

#: Seconds after which the main thread looks for signals that other threads were given.
_WAKE: Final = 0.25


def serve(settings: ServerSettings, reload: Callable[[], ServerSettings], say: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT.

    Parameters
    ----------
    settings : ServerSettings
    reload : callable
        The settings as they stand now; called at SIGHUP.
    say : callable
        Takes the lines that announce the server.

    Returns
    -------
    int
        0 when everything was drained and flushed, 1 when something had to be cut.
    """
    memory = ChunkMemory()
    memory.keep(settings.receive_budget)
    with _signals() as received, contextlib.ExitStack() as opened:
        backend = CreateStorageBackend(settings.device)
        opened.callback(backend.close)
        server = opened.enter_context(Server(backend, settings, memory.buffer))
        metrics = None
        if settings.metrics_port is not None:
            from lms_tiers.server.collector import metrics_port  # an HTTP server, which one without metrics never needs

            metrics = opened.enter_context(metrics_port(server, settings.metrics_host, settings.metrics_port))
        for line in announcement(server, metrics):
            say(line)
        current = settings
        while (number := _wait(received)) == signal.SIGHUP:
            current = take_over(server, current, reload)
        _log.info("draining", extra={"signal": signal.Signals(number).name, "seconds": settings.drain_timeout})
        return _finish(server, backend, settings.drain_timeout, received)


@contextlib.contextmanager
def _signals() -> Iterator[queue.SimpleQueue[int]]:
    received: queue.SimpleQueue[int] = queue.SimpleQueue()

    def note(number: int, frame: FrameType | None) -> None:
        received.put(number)

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def announcement(server: Server, metrics: MetricsPort | None) -> Iterator[str]:
    """What an operator wants to know at start."""
    settings = server.settings
    yield f"listening on {server.address}{' (TLS)' if settings.tls_cert else ''}"
    device = parse_device(settings.device)
    if device.store:
        yield f"store: {', '.join(f'{name}={value}' for name, value in device.store.items())}"
    yield "tiers, fastest first:"
    for tier in device.tiers:
        capacity = "no limit" if tier.capacity is None else format_size(tier.capacity)
        yield f"  {tier.name}{':' + mask_location(tier.location) if tier.location else ''}  {capacity}"
    if metrics is not None:
        yield f"metrics on http://{metrics.address}/metrics (also /healthz, /readyz)"
    address = server.address
    if settings.host in ("0.0.0.0", "::"):
        address = f"lm://<this machine's address>:{server.port}"
    if settings.tls_cert:
        yield "LMCache's own clients speak no TLS: they need a proxy beside them that does"
    elif not settings.unix:
        yield f'point LMCache at it:  remote_url: "{address}"'
    tls = "?tls_ca=<the CA's PEM file>" if settings.tls_cert else ""
    mutual = "&tls_cert=<PEM>&tls_key=<PEM>" if settings.tls_client_ca else ""
    place = address.removeprefix("lm://").replace("lm+unix://", "unix:")
    yield f"point lms-tiers at it:  lm:{place}{tls}{mutual}"
    if settings.exposed:
        yield (
            f"warning: anybody who reaches {settings.host}:{server.port} can read and write this cache: "
            "restrict it with --allow CIDR or --tls-cert, --tls-key and --tls-client-ca"
        )


def _finish(server: Server, backend: LMSBackendInterface, seconds: float, received: queue.SimpleQueue[int]) -> int:
    until = time.monotonic() + seconds
    server.stop_accepting()
    cut = server.connections
    while cut and time.monotonic() < until and _again(received) is None:
        cut = server.drain(min(0.2, max(0.0, until - time.monotonic())))
    server.close()
    if cut:
        _log.warning("connections were cut", extra={"connections": cut})
    try:
        backend.flush(max(0.0, until - time.monotonic()))
    except LmsTiersError as error:
        _log.error("not everything was flushed", extra={"fault": str(error)})
        return 1
    _log.info("stopped")
    return 1 if cut else 0


def _wait(received: queue.SimpleQueue[int]) -> int:
    """The next signal. The kernel may give one to any thread, but only the main thread handles it, once it wakes up."""
    while True:
        with contextlib.suppress(queue.Empty):
            return received.get(timeout=_WAKE)


def _again(received: queue.SimpleQueue[int]) -> int | None:
    """A second signal, which ends the waiting."""
    try:
        return received.get_nowait()
    except queue.Empty:
        return None
