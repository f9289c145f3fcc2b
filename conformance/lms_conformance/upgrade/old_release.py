"""Runs in the environment of an older release: opens its backend and does what it is told, a line of JSON each way.

It is run by its path, with the older release's interpreter, and imports nothing of the kit: what is imported is of the
environment that it runs in. See `predecessor`.
"""

from __future__ import annotations

import base64
import importlib
import json
import sys
from typing import Any


def opened(order: dict[str, Any]) -> Any:
    """The backend, as the order says: by a callable, bare by a tier's text, or as a device."""
    if "opener" in order:
        module, _, name = order["opener"].partition(":")
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found(*(order["path"], order["capacity"])[: order["arity"]])
    if order["bare"]:
        from lms_tiers.device import parse_tier
        from lms_tiers.factory import open_backend

        return open_backend(parse_tier(order["device"]))
    from lms_tiers import CreateStorageBackend

    return CreateStorageBackend(order["device"])


def answer(backend: Any, order: dict[str, Any]) -> dict[str, Any]:
    """What a call answers, as JSON."""
    from lms_tiers.messages import CacheEngineKey, ChunkMeta, MemoryFormat

    key: Any = CacheEngineKey.from_string(order["key"]) if "key" in order else None
    match order["do"]:
        case "put":
            dtype, fmt, shape = order["meta"]
            data = bytearray(base64.b64decode(order["data"]))
            backend.put(ChunkMeta(len(data), MemoryFormat[fmt], dtype, tuple(shape)).message(key), data)
        case "get":
            obj = backend.get(key)
            if obj is not None:
                view = memoryview(obj.data)
                dtype = None if obj.dtype is None else str(obj.dtype).removeprefix("torch.")
                found = bytes(view.cast("B")) if view.nbytes else b""
                return {"data": base64.b64encode(found).decode(), "meta": [dtype, obj.fmt.name, list(obj.shape)]}
        case "remove":
            backend.remove(key)
        case "keys":
            return {"keys": sorted(k.to_string() for k in backend.list_keys())}
        case "flush":
            backend.flush()
        case "close":
            backend.close()
    return {}


def main() -> None:
    """Until the other side hangs up."""
    out, sys.stdout = sys.stdout, sys.stderr
    backend: Any = None
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if order["do"] == "open":
                backend, said = opened(order), {}
            else:
                said = answer(backend, order)
        except Exception as error:
            from lms_tiers.errors import LmsTiersError

            typed = isinstance(error, LmsTiersError)
            said = {"raised": type(error).__name__, "message": str(error), "typed": typed}
        out.write(json.dumps(said) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
