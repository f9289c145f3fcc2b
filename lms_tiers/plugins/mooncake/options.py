"""What a device text says of a Mooncake Store: `mooncake:master:50051?admin=master:9003&timeout=2s`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lms_tiers.client.address import Address
from lms_tiers.client.names import own_address
from lms_tiers.errors import ConfigError, StorageUnavailableError
from lms_tiers.options import Duration, Options, Size


class MooncakeOptions(Options):
    """Options of the backend `mooncake`. The engine has no password and no TLS, so there is none to set."""

    metadata: str = Field("P2PHANDSHAKE", description="URL of a metadata service; none is needed by default")
    admin: str | None = Field(None, description="host:port of the master's HTTP, for listing; none: its host, 9003")
    protocol: Literal["tcp", "rdma"] = Field("tcp", description="how chunks cross the network")
    device: str = Field("", description="RDMA devices, by commas")
    host: str | None = Field(None, description="this host's name for the nodes; none: its address towards the master")
    prefix: str = Field("lms/", description="what every name begins with there; stores that share chunks share it")
    timeout: Duration = Field(5.0, gt=0, description="a request that takes longer has failed, and the client is ended")
    connections: int = Field(4, ge=1, le=64, description="requests on their way at one time, each with a buffer")
    max_chunk: Size = Field(32 << 20, ge=32 << 20, le=1 << 30, description="the longest chunk; a buffer holds two")


def addresses_of(location: str, options: MooncakeOptions) -> tuple[Address, str]:
    """The master's HTTP, and this host's name.

    Raises
    ------
    ConfigError
        One of them is no ``host:port``, or the master's host has no address.
    StorageUnavailableError
        No name server says in time which one it has.
    """
    master = _address(location)
    admin = _address(options.admin) if options.admin is not None else Address(master.host, 9003)
    if options.host is not None:
        return admin, options.host
    try:
        return admin, own_address(master.host, master.port, options.timeout)
    except TimeoutError as error:
        raise StorageUnavailableError(f"mooncake://{location}", f"cannot be reached: {error}.") from None
    except OSError as error:
        raise ConfigError(f"backend 'mooncake': no way to {master.host} ({error.strerror}); give `host`.") from None


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"backend 'mooncake' needs a master: mooncake:host:port, not {text!r}.")
    return Address(host.strip("[]"), int(port))
