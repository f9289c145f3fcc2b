"""The life of a serving process: open, announce, wait for signals, reload, drain, flush, close."""

from __future__ import annotations

import contextlib
import logging
import queue
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

from lms_tiers.device import DeviceSpec, parse_device
from lms_tiers.errors import LmsTiersError
from lms_tiers.factory import CreateStorageBackend
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.metrics.port import MetricsPort
from lms_tiers.server.collector import metrics_port
from lms_tiers.server.memory import ChunkMemory
from lms_tiers.server.server import Server
from lms_tiers.server.settings import ServerSettings
from lms_tiers.sizes import format_size

_log = logging.getLogger(__name__)

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


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
    import torch  # noqa: F401 - a request must not wait for this import

    with _signals() as received, contextlib.ExitStack() as opened:
        backend = CreateStorageBackend(settings.device)
        opened.callback(backend.close)
        server = opened.enter_context(Server(backend, settings, memory.buffer))
        metrics = None
        if settings.metrics_port is not None:
            metrics = opened.enter_context(metrics_port(server, settings.metrics_host, settings.metrics_port))
        for line in announcement(server, metrics):
            say(line)
        device = parse_device(settings.device)
        while (number := received.get()) == signal.SIGHUP:
            device = _reload(backend, device, reload)
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
    yield "tiers, fastest first:"
    for tier in parse_device(settings.device).tiers:
        capacity = "no limit" if tier.capacity is None else format_size(tier.capacity)
        yield f"  {tier.name}{':' + tier.location if tier.location else ''}  {capacity}"
    if metrics is not None:
        yield f"metrics on http://{metrics.host}:{metrics.port}/metrics (also /healthz, /readyz)"
    if not settings.unix:
        host = "<this machine's address>" if settings.host in ("0.0.0.0", "::") else settings.host
        yield f'point LMCache at it:  remote_url: "lm://{host}:{server.port}"'
    yield f"point lms-tiers at it:  lm:{server.address.removeprefix('lm://').replace('lm+unix://', 'unix:')}"
    if settings.exposed:
        yield (
            f"warning: anybody who reaches {settings.host}:{server.port} can read and write this cache: "
            "restrict it with --allow CIDR or --tls-cert, --tls-key and --tls-client-ca"
        )


def _reload(backend: LMSBackendInterface, device: DeviceSpec, reload: Callable[[], ServerSettings]) -> DeviceSpec:
    """Take new capacities over; whatever is wrong with them, the server goes on as it was."""
    try:
        new = parse_device(reload().device)
        resize = getattr(backend, "resize", None)
        if [t.name for t in new.tiers] != [t.name for t in device.tiers]:
            _log.error("not reloaded: the tiers are others; restart to change them")
        elif resize is None:
            _log.error("not reloaded: this storage cannot be resized; restart to change it")
        else:
            names = _tier_names(new)
            for name, old_tier, tier in zip(names, device.tiers, new.tiers, strict=True):
                if tier.capacity is not None and tier.capacity != old_tier.capacity:
                    resize(name, tier.capacity)
                    _log.info("resized", extra={"tier": name, "capacity": tier.capacity})
            return new
    except LmsTiersError as error:
        _log.error("not reloaded", extra={"fault": str(error)})
    return device


def _tier_names(device: DeviceSpec) -> list[str]:
    """Names as the store gives them: a second tier of one backend is `name#2`."""
    names: list[str] = []
    for tier in device.tiers:
        same = sum(n == tier.name or n.startswith(f"{tier.name}#") for n in names)
        names.append(f"{tier.name}#{same + 1}" if same else tier.name)
    return names


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


def _again(received: queue.SimpleQueue[int]) -> int | None:
    """A second signal, which ends the waiting."""
    try:
        return received.get_nowait()
    except queue.Empty:
        return None
