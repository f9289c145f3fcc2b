"""`moto_server` whose requests are carried out one at a time.

    python -m lms_conformance.remote.moto_in_turn PORT

By itself it answers 500 where one request replaces an object that another is about to read ("I/O operation on closed
file"), also to a put that is done. Connections, and what crosses them, are as many at one time as ever.
"""

from __future__ import annotations

import sys
import threading
from typing import Any, Final

from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple


class InTurn:
    """An application that is called by one thread at a time, with the whole of what it was sent."""

    def __init__(self, app: Any) -> None:
        self._app: Final = app
        self._turn: Final = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        """Answer one request."""
        with self._turn:
            return list(self._app(environ, start_response))


class Handler(WSGIRequestHandler):
    """Keeps connections."""

    protocol_version = "HTTP/1.1"


if __name__ == "__main__":
    app = InTurn(create_backend_app("s3"))  # the dispatcher looks through all of Amazon's services for each request
    run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=True, request_handler=Handler)
