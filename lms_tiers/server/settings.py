"""What an operator can set on the server, from the command line or a TOML file, checked before anything is opened."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import pydantic

from lms_tiers.errors import ConfigError
from lms_tiers.options import Size, fault
from lms_tiers.sizes import format_size
from lms_tiers.wire.plain import MAX_LENGTH

MIB: Final = 2**20


class ServerSettings(pydantic.BaseModel):
    """Settings of one server.

    Attributes
    ----------
    host, port : str, int
        Where to listen; port 0 takes a free one.
    unix : str or None
        Path of a Unix-domain socket to listen on, instead of host and port.
    unix_mode : int
        Permissions of that socket.
    device : str
        Device text of the storage.
    allow : tuple of networks
        Peers that may connect, as CIDR; empty allows all.
    tls_cert, tls_key, tls_client_ca : str or None
        PEM files; with `tls_client_ca` clients must show a certificate signed by it.
    max_chunk, receive_budget : int
        Bytes. The largest chunk taken, and the most bytes of chunks that are being received at one time.
    max_connections, threads : int
    linger : float
        Seconds a thread stays with a connection that has just been served, before it turns to others.
    header_timeout, stall_timeout : float
        Seconds in which a started header must be complete; seconds without progress after which a transfer is cut.
    min_rate : int
        Bytes a second under which a transfer is cut, on average over its whole length.
    idle_timeout : float or None
        Seconds after which a connection without requests is closed; LMCache's clients keep theirs open for ever.
    drain_timeout : float
        Seconds that running requests and the flush get after SIGTERM.
    metrics_host, metrics_port : str, int or None
    log_format : {"text", "json"}
    strict : bool
        Refuse capacities that this machine's memory or disk cannot hold, instead of warning of them.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: Annotated[int, pydantic.Field(ge=0, le=65535)] = 65432
    unix: str | None = None
    unix_mode: Annotated[int, pydantic.Field(ge=0, le=0o777)] = 0o600
    device: Annotated[str, pydantic.Field(repr=False)] = "cpu?capacity=4GiB"  # it may hold secrets
    allow: tuple[pydantic.IPvAnyNetwork, ...] = ()
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    max_chunk: Size = 256 * MIB
    receive_budget: Size = 1024 * MIB
    max_connections: Annotated[int, pydantic.Field(ge=1)] = 4096
    threads: Annotated[int, pydantic.Field(ge=1, le=1024)] = 32
    linger: Annotated[float, pydantic.Field(ge=0.001, le=1)] = 0.01
    header_timeout: Annotated[float, pydantic.Field(gt=0)] = 10
    stall_timeout: Annotated[float, pydantic.Field(gt=0)] = 10
    min_rate: Size = MIB
    idle_timeout: Annotated[float | None, pydantic.Field(gt=0)] = None
    drain_timeout: Annotated[float, pydantic.Field(ge=0)] = 30
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int | None, pydantic.Field(ge=0, le=65535)] = None
    log_format: Literal["text", "json"] = "text"
    strict: bool = False

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        if not 1 <= self.max_chunk <= MAX_LENGTH:
            above = format_size(MAX_LENGTH + 1)
            raise ValueError(f"max_chunk must be at least 1 B and below {above}: lengths on the wire have 32 bits")
        if self.receive_budget < self.max_chunk:
            raise ValueError(
                f"receive_budget ({format_size(self.receive_budget)}) is smaller than max_chunk "
                f"({format_size(self.max_chunk)}): no such chunk could ever be received"
            )
        if self.min_rate < 1:
            raise ValueError("min_rate must be 1 B or more")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key belong together")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        return self

    @property
    def exposed(self) -> bool:
        """Whether anybody in the network can read and write the cache."""
        return not (self.unix or self.allow or self.tls_client_ca or is_loopback(self.host))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    return host in ("localhost", "::1") or host.startswith("127.")


def make_settings(file: str | None, given: dict[str, Any]) -> ServerSettings:
    """Settings from a TOML file and, above it, what was given on the command line (None: not given).

    Raises
    ------
    ConfigError
        The file cannot be read, a name is unknown (the nearest is suggested) or a value does not fit.
    """
    values = {**(_read(Path(file)) if file else {}), **{k: v for k, v in given.items() if v is not None}}
    known = tuple(ServerSettings.model_fields)
    for name in values:
        if name not in known:
            raise ConfigError(f"the server has no setting {name!r}.", unknown=name, known=known)
    try:
        return ServerSettings.model_validate(values)
    except pydantic.ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ConfigError(f"server setting {where}: {fault(error)}." if where else f"server: {fault(error)}.") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"server file {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"server file {path} is not valid TOML: {error}.") from error
