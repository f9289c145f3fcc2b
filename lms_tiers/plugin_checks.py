"""What is checked of a plugin before pluggy registers it: the faults that pluggy accepts and trips over later."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

import pluggy

from lms_tiers.errors import PluginError
from lms_tiers.hookspecs import PROJECT


def check_hooks(host: pluggy.PluginManager, plugin: Any, name: str) -> None:
    """Check the hook implementations of `plugin`.

    Raises
    ------
    PluginError
        No hook is marked (or only with another project's marker), a hook's name is misspelt, an implementation is a
        wrapper, async, keyword-only, or asks for an argument the hook does not have.
    """
    known = [n for n in dir(host.hook) if not n.startswith("_")]
    marked = 0
    foreign: set[str] = set()
    for attribute in dir(plugin):
        function = inspect.getattr_static(plugin, attribute, None)
        function = getattr(function, "__func__", function)
        if not inspect.isroutine(function):
            continue
        options = getattr(function, f"{PROJECT}_impl", None)
        if not isinstance(options, dict):
            foreign.update(m[: -len("_impl")] for m in vars(function) if m.endswith("_impl"))
            continue
        marked += 1
        hook = options.get("specname") or attribute
        if hook not in known:
            near = difflib.get_close_matches(hook, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise PluginError(name, f"{hook!r} is not a hook.{hint} Known: {', '.join(sorted(known))}.")
        _check_function(function, hook, options, name)
    if not marked:
        if foreign:
            raise PluginError(
                name,
                f"its hooks are marked for {', '.join(sorted(foreign))!r}: "
                f"mark them with lms_tiers.hookimpl (project {PROJECT!r}).",
            )
        raise PluginError(name, "implements no hook: mark one with lms_tiers.hookimpl.")


def _check_function(function: Any, hook: str, options: dict[str, Any], name: str) -> None:
    if options.get("wrapper") or options.get("hookwrapper"):
        raise PluginError(name, f"{hook} is a hook wrapper: implement it as a plain function.")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise PluginError(name, f"{hook} is async: hooks are called without an event loop; use a plain function.")
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            raise PluginError(
                name, f"{hook} takes {parameter.name!r} as keyword-only: pluggy passes positionally; drop the '*'."
            )
