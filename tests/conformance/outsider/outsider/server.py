"""A dictionary behind a socket: pickled questions and answers, a thread a connection."""

from __future__ import annotations

import sys
import threading
from multiprocessing.connection import Connection, Listener

held: dict[str, tuple[bytes, bytes]] = {}


def serve(connection: Connection) -> None:
    """Answer one client until it hangs up."""
    while True:
        try:
            what, key, value = connection.recv()
        except (EOFError, OSError):
            return
        match what:
            case "put":
                held[key] = value
                connection.send(None)
            case "remove":
                connection.send(held.pop(key, None) and None)
            case "list":
                connection.send(list(held))
            case _:
                connection.send(held.get(key))


if __name__ == "__main__":
    with Listener(("127.0.0.1", int(sys.argv[1]))) as listener:
        while True:
            threading.Thread(target=serve, args=(listener.accept(),), daemon=True).start()
