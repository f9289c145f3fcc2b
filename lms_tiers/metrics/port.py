"""The port for operators: `/metrics`, `/healthz` (the process lives) and `/readyz` (it takes requests)."""

from __future__ import annotations

import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final, Self

from lms_tiers.errors import StorageUnavailableError
from lms_tiers.metrics.collector import require_prometheus

_log = logging.getLogger(__name__)

#: Requests answered at one time, and seconds each may take: a scraper needs one, a flood gets no more.
_REQUESTS: Final = 8
_SECONDS: Final = 5


class _Handler(BaseHTTPRequestHandler):
    timeout = _SECONDS
    server_version = "lms-tiers"
    sys_version = ""
    metrics: ClassVar[Callable[[], bytes]]
    content_type: ClassVar[str]
    ready: ClassVar[Callable[[], bool]]

    def do_GET(self) -> None:
        """Answer one of the three paths."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(200, type(self).metrics(), self.content_type)
        elif path == "/healthz":
            self._answer(200, b"alive\n")
        elif path == "/readyz":
            ready = type(self).ready()
            self._answer(200 if ready else 503, b"ready\n" if ready else b"draining\n")
        else:
            self._answer(404, b"there are /metrics, /healthz and /readyz\n")

    def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log like the rest of the process."""
        _log.debug(format, *args, extra={"peer": self.client_address[0]})


class _BoundedServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = True

    def __init__(self, host: str, port: int, handler: type[_Handler]) -> None:
        self._served: set[int] = set()
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self.address_family = info[0]
        super().__init__(info[4][:2], handler)  # type: ignore[arg-type]  # host and port, of either family

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's would ask a name server for this machine's name

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._served) >= _REQUESTS:
            self.shutdown_request(request)
            return
        self._served.add(id(request))
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._served.discard(id(request))  # no thread came of it that would
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._served.discard(id(request))

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("a metrics request failed", exc_info=True)


class MetricsPort:
    """An HTTP port beside a store or a server, for Prometheus and for `lms-tiers stats`.

    Parameters
    ----------
    collectors : iterable
        Prometheus collectors: a `StoreCollector` for each store.
    host, port : str, int
        Port 0 takes a free one.
    ready : callable
        Whether requests are taken, for `/readyz`.

    Raises
    ------
    StorageUnavailableError
        The address cannot be listened on.
    ConfigError
        `prometheus-client` is not installed.
    """

    def __init__(
        self,
        collectors: Iterable[Any],
        host: str = "127.0.0.1",
        port: int = 0,
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        prometheus = require_prometheus()
        registry = prometheus.CollectorRegistry()
        for collector in collectors:
            registry.register(collector)
        members = {
            "metrics": staticmethod(lambda: prometheus.generate_latest(registry)),
            "content_type": prometheus.CONTENT_TYPE_LATEST,
            "ready": staticmethod(ready),
        }
        try:
            self._http: Final = _BoundedServer(host, port, type("Handler", (_Handler,), members))
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StorageUnavailableError(f"{host}:{port}", f"cannot be listened on: {reason}.") from error
        self.port: Final = int(self._http.server_address[1])
        self.host: Final = host
        #: As it stands in a URL.
        self.address: Final = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self._thread: Final = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.2}, name="lms-tiers-metrics", daemon=True
        )
        try:
            self._thread.start()
        except BaseException:
            self._http.server_close()
            raise

    def close(self) -> None:
        """Stop listening. Idempotent."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
