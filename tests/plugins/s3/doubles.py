"""Stores that answer by the book of a test: with one status, or too late."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from lms_conformance.remote.s3 import CREDENTIALS

LISTING = b"<ListBucketResult><Name>b</Name><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"


@contextlib.contextmanager
def answering(status: int) -> Iterator[tuple[str, list[str]]]:
    """A store that lists nothing and answers everything else so; its device, and what it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(self.command)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = LISTING if "list-type" in self.path else b"<Error><Code>Tested</Code></Error>"
            self.send_response(200 if body is LISTING else status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"s3:b?endpoint=http://127.0.0.1:{server.server_port}&{CREDENTIALS}", asked
        finally:
            server.shutdown()
            thread.join()


class LateStore:
    """A store in memory. The next request of the kind `loses` gets no answer: its connection ends. What it asks for waits
    in `late` to be called, as a request waits that a server has read and not yet begun."""

    def __init__(self) -> None:
        self.loses = ""
        self.late: Final[list[Callable[[], Any]]] = []
        self._goes_on: Final = threading.Event()
        self._goes_on.set()
        self._held: Final[dict[str, bytes]] = {}
        store = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                name = self.path.split("?")[0]
                if self.command == store.loses:
                    store.loses = ""
                    store.late.append(partial(store._do, self.command, name, body))
                    return
                status, answer = store._do(self.command, name, body) if "list-type" not in self.path else (200, LISTING)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.send_header("ETag", '"x"')
                self.send_header("Last-Modified", "Sun, 29 Nov 2026 00:00:00 GMT")
                self.send_header("Content-Range", f"bytes 0-{len(answer) - 1}/{len(answer)}")  # all there is, always
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(answer[: len(answer) // 2])
                    store._goes_on.wait()
                    self.wfile.write(answer[len(answer) // 2 :])

            do_GET = do_PUT = do_POST = answer

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self._server: Final = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread: Final = threading.Thread(target=self._server.serve_forever)
        self.device: Final = f"s3:b?endpoint=http://127.0.0.1:{self._server.server_port}&{CREDENTIALS}&timeout=60s"

    def hold(self, name: str, data: bytes) -> None:
        """Have an object."""
        self._held[f"/b/{name}"] = data

    @contextlib.contextmanager
    def stalling(self) -> Iterator[None]:
        """Answers stop in their middle during the block."""
        self._goes_on.clear()
        try:
            yield
        finally:
            self._goes_on.set()

    def _do(self, command: str, name: str, body: bytes) -> tuple[int, bytes]:
        if command == "PUT":
            self._held[name] = body
        elif command == "POST":  # names to delete
            for key in re.findall(rb"<Key>([^<]*)</Key>", body):
                self._held.pop(f"{name}/{key.decode()}", None)
            return 200, b"<DeleteResult/>"
        elif name not in self._held:
            return 404, b""
        else:
            return 206, self._held[name]
        return 200, b""

    def __enter__(self) -> LateStore:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
