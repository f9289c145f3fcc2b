"""A Mooncake Store on loopback: a master, and a node that gives memory. Both end with this process's group.

    python -m lms_conformance.remote.mooncake_alone PORT FOLDER [BYTES] [OPTION OF THE MASTER...]

The master listens at 127.0.0.1:PORT, its HTTP at 127.0.0.2:PORT, the node at 127.0.0.3:PORT, so that one free port is
enough; their process ids are written into FOLDER. The node's data ports are the engine's to choose, and open to every
address of the machine.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path


def program(name: str) -> str:
    """Where the wheel keeps a program; its bare name where there is no wheel."""
    spec = find_spec("mooncake")
    folders = spec.submodule_search_locations if spec is not None else None
    return str(Path(folders[0], name)) if folders else name


def main(port: int, folder: Path, size: str = "1073741824", *options: str) -> None:
    """Start both and wait for the master's end."""
    master = subprocess.Popen([
        program("mooncake_master"), "--rpc_address=127.0.0.1", f"--rpc_port={port}", "--metrics_host=127.0.0.2",
        f"--metrics_port={port}", "--client_ttl=3", *options,
    ])  # fmt: skip
    while master.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.01)
    node = subprocess.Popen([
        program("mooncake_client"), "--host=127.0.0.3", f"--port={port}", "--metadata_server=P2PHANDSHAKE",
        f"--master_server_address=127.0.0.1:{port}", f"--global_segment_size={size}", "--protocol=tcp",
    ])  # fmt: skip
    for name, child in (("master", master), ("node", node)):
        (folder / f"{name}.pid").write_text(str(child.pid))
    master.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
