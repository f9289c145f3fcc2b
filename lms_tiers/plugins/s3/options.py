"""What a device text says of an object store: `s3:bucket/prefix?endpoint=https://minio:9000&timeout=2s`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr

from lms_tiers.errors import ConfigError
from lms_tiers.options import Duration, Options, Size


class S3Options(Options):
    """Options of the backend `s3`."""

    endpoint: str | None = Field(None, description="URL of the store; none: AWS, or what the environment says")
    region: str | None = Field(None, description="none: what the environment says, else `us-east-1`")
    path_style: bool | None = Field(None, description="`host/bucket`, not `bucket.host`; none: with an endpoint")
    access_key_id: str | None = Field(None, description="none: the environment, or the machine's role")
    secret_access_key: SecretStr | None = Field(None, description="of that key")
    anonymous: bool = Field(False, description="sign nothing, ask for no credentials")
    tls_ca: str | None = Field(None, description="PEM file of a CA to trust beside those of the system")
    timeout: Duration = Field(5.0, gt=0, description="a request and all its repetitions take so long at most")
    retries: int = Field(3, ge=0, le=100, description="repetitions of a read, or of a write refused as too busy")
    ranges: Size = Field(
        64 << 20, ge=1 << 20, description="longer objects are read by ranges of so many bytes, four at a time"
    )
    connections: int = Field(16, ge=1, le=256, description="requests of one batch on their way at one time")


def store_of(location: str, options: S3Options) -> tuple[dict[str, Any], str]:
    """The arguments of `obstore.store.S3Store` for ``bucket/prefix``, and the prefix.

    Raises
    ------
    ConfigError
        There is no bucket, or the file of the CA cannot be read.
    """
    bucket, _, prefix = location.removeprefix("//").partition("/")
    if not bucket:
        raise ConfigError("backend 's3' needs a bucket: s3:bucket or s3:bucket/prefix.")
    # A request begins within half the time, and has the other half: so the whole ends in time.
    half = timedelta(seconds=options.timeout / 2)
    pause = timedelta(seconds=options.timeout / 20)
    client: dict[str, Any] = {"timeout": half, "connect_timeout": half, "pool_idle_timeout": timedelta(seconds=30)}
    if options.endpoint is not None and options.endpoint.startswith("http://"):
        client["allow_http"] = True
    if options.tls_ca is not None:
        try:
            client["root_certificate"] = Path(options.tls_ca).read_bytes()
        except OSError as error:
            raise ConfigError(f"backend 's3', option tls_ca: {options.tls_ca}: {error.strerror}.") from None
    given: dict[str, Any] = {
        "bucket": bucket, "client_options": client,
        "retry_config": {
            "max_retries": options.retries, "retry_timeout": half,
            "backoff": {"init_backoff": pause, "max_backoff": 2 * pause, "base": 2},
        },
    }  # fmt: skip
    secret = options.secret_access_key
    path_style = options.endpoint is not None if options.path_style is None else options.path_style
    said = {
        "endpoint": options.endpoint, "region": options.region, "access_key_id": options.access_key_id,
        "secret_access_key": None if secret is None else secret.get_secret_value(),
        "virtual_hosted_style_request": False if path_style else None if options.path_style is None else True,
        "skip_signature": True if options.anonymous else None,
    }  # fmt: skip
    return {**given, **{name: value for name, value in said.items() if value is not None}}, prefix.strip("/")
