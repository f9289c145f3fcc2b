"""The base of backend options models: what may stand after ``?`` in a device text, typed and closed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeVar

import pydantic

from lms_tiers.errors import ConfigError
from lms_tiers.sizes import parse_size

_Model = TypeVar("_Model", bound=pydantic.BaseModel)


def _size(value: Any) -> Any:
    return parse_size(value) if isinstance(value, str) else value


#: An option that is a size: ``"64KiB"`` in a device text, an int of bytes in code.
Size = Annotated[int, pydantic.BeforeValidator(_size), pydantic.Field(ge=0)]


class Options(pydantic.BaseModel):
    """Options of one backend: subclass it and add typed fields with defaults and descriptions."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, backend: str, given: Mapping[str, Any]) -> Self:
        """Options from a device text's values; see `parse_options`."""
        return parse_options(cls, backend, given)


def fault(error: pydantic.ValidationError) -> str:
    """What the first fault of a validation is, as the end of a sentence."""
    return error.errors()[0]["msg"].removeprefix("Value error, ").removesuffix(".")


def parse_options(model: type[_Model], backend: str, given: Mapping[str, Any]) -> _Model:
    """Validate `given` against an options model.

    Raises
    ------
    ConfigError
        An unknown option (lists the known ones, suggests the nearest) or a value that does not fit.
    """
    known = [*model.model_fields, "capacity", "policy", "write"]
    for name in given:
        if name not in model.model_fields:
            raise ConfigError(f"backend {backend!r} has no option {name!r}.", unknown=name, known=known)
    try:
        return model.model_validate(dict(given))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"backend {backend!r}, option {where} = {first.get('input')!r}: {fault(error)}.") from None
