"""What a device text says of a Redis: `redis:host:6379?username=kv&password_env=KV_PASSWORD&ttl=24h`."""

from __future__ import annotations

import ssl
from typing import Final
from urllib.parse import unquote

import pydantic
from pydantic import Field, SecretStr

from lms_tiers.client.address import Address, tls_context
from lms_tiers.errors import ConfigError
from lms_tiers.options import Duration, Options
from lms_tiers.resp.link import Place

PORT: Final = 6379
_SCHEMES: Final = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}


class RedisOptions(Options):
    """Options of the backend `redis`."""

    username: str | None = Field(None, description="of the ACL; without one the user `default`")
    password: SecretStr | None = Field(None, description="of that user")
    db: int = Field(0, ge=0, description="number of the database; a Cluster has 0 only")
    prefix: str = Field("lms:", description="what every key begins with there; stores that share chunks share it")
    ttl: Duration | None = Field(None, description="a chunk leaves so long after its put; none: when the engine evicts")
    timeout: Duration = Field(1.0, gt=0, description="a node that says nothing for so long has failed the call")
    connections: int = Field(8, ge=1, le=1024, description="idle connections kept to each node")
    tls: bool = Field(False, description="speak TLS, as `rediss://` does")
    tls_ca: str | None = Field(None, description="PEM file of the CA; none: those of the system")
    tls_cert: str | None = Field(None, description="PEM file of this client's certificate")
    tls_key: str | None = Field(None, description="PEM file of its key")

    @pydantic.field_validator("ttl")
    @classmethod
    def _some(cls, ttl: float | None) -> float | None:
        if ttl is not None and ttl < 0.001:
            raise ValueError("a chunk stays a millisecond at least")
        return ttl


def place_of(location: str, options: RedisOptions) -> Place:
    """Read ``host:port[,host:port...]``, ``unix:/path`` or a URL ``rediss://user:password@host:port/db``.

    Raises
    ------
    ConfigError
        It is none of these, a file of TLS cannot be used, or location and options contradict each other.
    """
    scheme, mark, rest = location.partition("://")
    if mark and scheme not in _SCHEMES:
        raise ConfigError(f"backend 'redis': {scheme}:// is no scheme of it.", unknown=scheme, known=_SCHEMES)
    user_info, _, rest = (rest if mark else location).rpartition("@")
    username, _, password = map(unquote, user_info.partition(":"))
    db = ""
    if not rest.startswith("unix:"):
        rest, _, db = rest.partition("/")
    if not rest or (db and not db.isdecimal()):
        raise ConfigError("backend 'redis' needs a place: redis:host:port, for a Cluster host:port,host:port.")
    for name, given in (("username", username), ("password", password), ("db", db)):
        if given and name in options.model_fields_set:
            raise ConfigError(f"backend 'redis': {name} is given in the location and as an option.")
    tls = tls_context(options.tls_ca, options.tls_cert, options.tls_key)
    if tls is None and (options.tls or _SCHEMES.get(scheme, False)):
        tls = ssl.create_default_context()
    secret = options.password.get_secret_value() if options.password is not None else password or None
    return Place(
        tuple(_address(text.strip()) for text in rest.split(",")),
        tls,
        username or options.username, secret, int(db or options.db),
    )  # fmt: skip


def _address(text: str) -> Address:
    found = Address.parse(text)
    named = text.startswith("unix:") or (text.rpartition(":")[2].isdecimal() and text[-1] != "]")
    return found if named else Address(found.host, PORT)
