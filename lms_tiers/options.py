"""Options models: what may stand after ``?`` in a device text, typed and closed; their base, and that of the store.

An option that a model declares as `pydantic.SecretStr` is a secret: no error quotes it, and its value may be kept
elsewhere, in an environment variable (``password_env=NAME``) or a file (``password_file=PATH``).
"""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, Self, TypeVar

import pydantic
import pydantic.fields
import pydantic_core

from lms_tiers.errors import ConfigError
from lms_tiers.secrets import MASK, TIER_OPTIONS, declare, is_secret, scrub
from lms_tiers.sizes import format_size, parse_duration, parse_size

_Model = TypeVar("_Model", bound=pydantic.BaseModel)

#: What a variable of the environment is called; anything else may be the secret itself, put there by mistake.
_VARIABLE: Final = re.compile(r"[A-Z_][A-Z0-9_]*")


def _size(value: Any) -> Any:
    return parse_size(value) if isinstance(value, str) else value


#: An option that is a size: ``"64KiB"`` in a device text, an int of bytes in code.
Size = Annotated[int, pydantic.BeforeValidator(_size), pydantic.Field(ge=0)]


def _duration(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} has no unit: write it as text, such as '500ms'.")
    return parse_duration(value)


def _size_with_unit(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} has no unit: write it as text, such as '64MiB'.")
    return parse_size(value)


#: Seconds that no option goes beyond: what locks wait for has an end.
_LONGEST: Final = 366 * 86_400.0

#: An option that is a time: ``"500ms"`` in a device text or file, seconds as a float in code.
Duration = Annotated[float, pydantic.BeforeValidator(_duration), pydantic.Field(ge=0, le=_LONGEST)]

_Positive = Annotated[float, pydantic.BeforeValidator(_duration), pydantic.Field(gt=0, le=_LONGEST)]


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


class StoreOptions(pydantic.BaseModel):
    """What a device may tell the store over its tiers; the fields are parameters of `TieredStore`."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    back_pressure: Duration = pydantic.Field(
        1.0, description="a put waits so long for a tier below, then drops a chunk that nobody else holds"
    )
    stall: _Positive = pydantic.Field(
        2.0, description="a call inside a backend that takes longer switches the tier off for others"
    )
    patience: Duration = pydantic.Field(10.0, description="wait for another mutator of the same key in the same tier")
    queue_bytes: Annotated[int, pydantic.BeforeValidator(_size_with_unit)] = pydantic.Field(
        64 << 20, description="bytes that may wait to be moved into a tier"
    )
    breaker_threshold: int = pydantic.Field(5, ge=1, description="failures in a row that switch a tier off")
    breaker_cooldown: _Positive = pydantic.Field(1.0, description="until it is probed, doubling up to the longest")
    breaker_longest: _Positive = pydantic.Field(60.0, description="see `breaker_cooldown`")
    read_deadline: _Positive | None = pydantic.Field(
        None, description="a get waits so long for a tier below the top; another thread makes each such read then"
    )
    close_timeout: Duration = pydantic.Field(
        30.0, description="`close` spends it on flushing, and again on threads and backends that do not come back"
    )

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.breaker_cooldown > self.breaker_longest:
            raise ValueError("breaker_cooldown is longer than breaker_longest.")
        return self

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Self:
        """Options from a device's values.

        Raises
        ------
        ConfigError
            An unknown option (lists the known ones, suggests the nearest), or a value that does not fit.
        """
        for name in given:
            if name not in cls.model_fields:
                raise ConfigError(f"the store has no option {name!r}.", unknown=name, known=cls.model_fields)
        try:
            return cls.model_validate(dict(given))
        except pydantic.ValidationError as error:
            raise ConfigError(f"the store{_faulty(error)}: {fault(error)}.") from None


#: What may stand with every tier: its default and what it means.
TIER_MEANINGS: Final = {
    "capacity": ("none", "the tier's physical bytes; needed by every tier with another below it"),
    "policy": ("`lru`", "which chunks leave: {policies}"),
    "write": (
        "`back`, shared: `through`", "`back`: chunks come as they are demoted; `through`: puts are queued at once",
    ),
    "promote": ("`hits`", "`hits`: chunks hit here are offered to the tiers above; `never`: they stay where they are"),
    "deadline": ("`1s`", "of a shared tier: how long a call may take before its caller goes on without it"),
    "revalidate": ("none", "of a shared tier: a private copy that is older is asked for again before it is a hit"),
}  # fmt: skip


class Option(NamedTuple):
    """One option as people read it. `kind` and `default` are Markdown."""

    name: str
    kind: str
    default: str
    meaning: str
    secret: bool


def described(model: type[pydantic.BaseModel]) -> Iterator[Option]:
    """The options of a model, in its order."""
    secrets = secret_options(model)
    for name, field in model.model_fields.items():
        yield Option(name, _type(field), _default(field), field.description or "", name in secrets)


def _type(field: pydantic.fields.FieldInfo) -> str:
    kind: Any = field.annotation
    inner = [m for argument in typing.get_args(kind) for m in getattr(argument, "__metadata__", ())]
    reads = [m for m in (*field.metadata, *inner) if isinstance(m, pydantic.BeforeValidator)]
    if reads:
        return "duration" if "duration" in reads[0].func.__name__ else "size"
    text = kind.__name__ if isinstance(kind, type) else str(kind)
    text = text.replace("typing.", "").replace("pydantic.types.", "")
    if text.startswith("Literal["):
        return ", ".join(f"`{value}`" for value in kind.__args__)
    return text


def _default(field: pydantic.fields.FieldInfo) -> str:
    if field.default is pydantic_core.PydanticUndefined:
        return "needed"
    if field.default in (None, ""):
        return "none"
    if _type(field) == "duration":
        return f"`{field.default:g}s`"
    if _type(field) == "size":
        return f"`{format_size(field.default).replace(' ', '')}`"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


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
    known = [*model.model_fields, *elsewhere, *TIER_OPTIONS]
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
