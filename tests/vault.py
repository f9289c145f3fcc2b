"""A backend whose options hold secrets, as a plugin has it: what it imports, every command imports that finds it."""

from __future__ import annotations

from typing import Annotated, Self

import pydantic

from lms_tiers import BackendSpec, LMSBackendInterface, LMSLocalBackend
from lms_tiers.errors import StorageUnavailableError
from lms_tiers.messages import ClientMetaMessage
from lms_tiers.options import Options


class VaultOptions(Options):
    """A password by its usual name, and a secret that only the model knows for one."""

    password: pydantic.SecretStr = pydantic.SecretStr("")
    licence: Annotated[pydantic.SecretStr | None, pydantic.Field(min_length=3)] = None
    user: str = ""
    how: str = "well"

    @pydantic.model_validator(mode="after")
    def _fits(self) -> Self:
        if self.how == "unfit":
            raise ValueError(f"{self.password.get_secret_value()} does not fit")
        return self


class Forgetful(LMSLocalBackend):
    """Stores nothing, so that the kit has something to print."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        del client_meta, kv_chunk_bytes


def open_vault(location: str, capacity: int | None, options: VaultOptions) -> LMSBackendInterface:
    """Open it; `how` says in which way that ends."""
    told = f"no answer from vault://{options.user}:{options.password.get_secret_value()}@{location}"
    match options.how:
        case "raises":
            raise RuntimeError(told)
        case "unavailable":
            raise StorageUnavailableError(location, told)
        case "chained":
            try:
                raise RuntimeError(told)
            except RuntimeError as error:
                raise StorageUnavailableError(location, "unreachable") from error
        case "forgets":
            return Forgetful()
    return LMSLocalBackend()


VAULT = BackendSpec(name="vault", factory=open_vault, options=VaultOptions)
