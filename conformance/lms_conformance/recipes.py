"""Opening in another process what `Harness.recipe` described."""

from __future__ import annotations

import base64
import importlib
import importlib.util
import pickle
import sys
from typing import Any

from lms_conformance.harness import Harness


def load_harness(recipe: dict[str, Any]) -> Harness:
    """The harness that `Harness.recipe` described."""
    for entry in recipe["path"]:
        if entry not in sys.path:
            sys.path.append(entry)
    for name, file in recipe["modules"]:
        if name in sys.modules:
            continue
        try:
            importlib.import_module(name)
        except ImportError:
            # A test file that pytest imported by its path: no import system finds it by name.
            spec = importlib.util.spec_from_file_location(name, file)
            if spec is None or spec.loader is None:
                raise
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
    harness = pickle.loads(base64.b64decode(recipe["harness"]))
    assert isinstance(harness, Harness)
    return harness
