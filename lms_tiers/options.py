"""The base of backend options models: what may stand after ``?`` in a device text, typed and closed.

An option that a model declares as `pydantic.SecretStr` is a secret: no error quotes it, and its value may be kept
elsewhere, in an environment variable (``password_env=NAME``) or a file (``password_file=PATH``).
"""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self, TypeVar

import pydantic

from lms_tiers.errors import ConfigError
from lms_tiers.secrets import MASK, declare, is_secret, scrub
from lms_tiers.sizes import parse_size

_Model = TypeVar("_Model", bound=pydantic.BaseModel)

#: What a variable of the environment is called; anything else may be the secret itself, put there by mistake.
_VARIABLE: Final = re.compile(r"[A-Z_][A-Z0-9_]*")


def _size(value: Any) -> Any:
    return parse_size(value) if isinstance(value, str) else value


#: An option that is a size: ``"64KiB"`` in a device text, an int of bytes in code.
Size = Annotated[int, pydantic.BeforeValidator(_size), pydantic.Field(ge=0)]


class Options(pydantic.BaseModel):
    """Options of one backend: subclass it and add typed fields with defaults and descriptions."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        declare(secret_options(cls))

    @classmethod
    def parse(cls, backend: str, given: Mapping[str, Any]) -> Self:
        """Options from a device text's values; see `parse_options`."""
        return parse_options(cls, backend, given)


def fault(error: pydantic.ValidationError) -> str:
    """What the first fault of a validation is, as the end of a sentence."""
    return error.errors()[0]["msg"].removeprefix("Value error, ").removesuffix(".")


def secret_options(model: type[pydantic.BaseModel]) -> list[str]:
    """The options that a model declares as `pydantic.SecretStr`, optional ones too."""
    return [name for name, field in model.model_fields.items() if _holds_secret(field.annotation)]


def _holds_secret(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.SecretStr):
        return True
    return any(map(_holds_secret, typing.get_args(annotation)))


def secret_values(options: object) -> list[str]:
    """The secrets that validated options hold, to be kept out of what is printed."""
    values = vars(options).values() if isinstance(options, pydantic.BaseModel) else ()
    return [value.get_secret_value() for value in values if isinstance(value, pydantic.SecretStr)]


def parse_options(model: type[_Model], backend: str, given: Mapping[str, Any]) -> _Model:
    """Validate `given` against an options model.

    For each secret option ``x`` of the model `given` may hold ``x_env``, the name of a variable of the environment, or
    ``x_file``, the path of a file that holds the secret (a line break at its end is none of it).

    Raises
    ------
    ConfigError
        An unknown option (lists the known ones, suggests the nearest), a value that does not fit, or a secret that is
        not where it was said to be.
    """
    secrets = secret_options(model)
    declare(secrets)
    elsewhere = {f"{x}_{kind}": x for x in secrets for kind in ("env", "file")}
    known = [*model.model_fields, *elsewhere, "capacity", "policy", "write"]
    for name in given:
        if name not in model.model_fields and name not in elsewhere:
            raise ConfigError(f"backend {backend!r} has no option {name!r}.", unknown=name, known=known)
    values: dict[str, Any] = {}
    for name, value in given.items():
        option = name if name in model.model_fields else elsewhere[name]
        if option in values:
            raise ConfigError(f"backend {backend!r}, option {name}: {option!r} is given twice.")
        values[option] = value if option == name else _fetched(backend, name, str(value))
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        hidden = [str(value) for name, value in values.items() if is_secret(name)]
        raise ConfigError(f"backend {backend!r}{_faulty(error)}: {scrub(fault(error), hidden)}.") from None


def _faulty(error: pydantic.ValidationError) -> str:
    first = error.errors()[0]
    if not first["loc"]:  # the options do not fit together: the input is all of them
        return ""
    where = ".".join(map(str, first["loc"]))
    return f", option {where} = {MASK if is_secret(str(first['loc'][0])) else repr(first.get('input'))}"


def _fetched(backend: str, name: str, place: str) -> str:
    """The secret that `place` holds, a variable of the environment or a file."""
    if name.endswith("_env"):
        found = os.environ.get(place)
        if found is None:
            shown = repr(place) if _VARIABLE.fullmatch(place) else MASK
            raise ConfigError(f"backend {backend!r}, option {name}: the environment has no variable {shown}.")
        return found
    try:
        return Path(place).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"backend {backend!r}, option {name}: {place} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"backend {backend!r}, option {name}: {place} is not UTF-8.") from None
