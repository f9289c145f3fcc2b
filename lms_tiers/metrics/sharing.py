"""Several collectors of one kind in one registry: which they are, and one family of each name among them.

A registry asks its collectors one after the other and tells none of them who else it holds, but a family that comes
twice makes text that no parser takes. So the first of a kind speaks for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_T = TypeVar("_T")


def in_registry(kind: type[_T], frame: FrameType | None) -> Sequence[_T]:
    """Collectors of `kind` in the registry whose method runs in `frame`, in the order they were registered.

    None where no registry runs there, or one that keeps its collectors otherwise.
    """
    asking = frame.f_locals.get("self") if frame is not None else None
    registry = getattr(asking, "_registry", asking)  # that of some names only asks for another
    held = getattr(registry, "_collector_to_names", None)
    return [collector for collector in list(held) if isinstance(collector, kind)] if isinstance(held, dict) else []


def merged(families: Iterable[Metric]) -> list[Metric]:
    """One family of each name, with the samples of all that have it."""
    found: dict[str, Metric] = {}
    for family in families:
        first = found.setdefault(family.name, family)
        if first is not family:
            first.samples.extend(family.samples)
    return list(found.values())


def told_apart(labels: Mapping[str, str], taken: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
    """The labels, with a number in the label `store` where others have all of them."""
    name, number, apart = labels.get("store", ""), 1, labels
    while apart in taken:
        number += 1
        apart = {**labels, "store": f"{name}#{number}" if name else str(number)}
    return apart
