"""Mutants that get tensors wrong."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

from lms_conformance.zoo.mutant import Wrapper, mutant, text_of
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ClientMetaMessage, LMSMemoryObj


@mutant("answers-flat-tensors", "TEN-01", base="tensor")
class AnswersFlat(Wrapper):
    """Answers a tensor of the chunk's bytes."""

    def get_tensor(self, key: CacheEngineKey, out: Any = None) -> Any:
        """Flat."""
        import torch

        found = self.inner.get_tensor(key, out)
        return found if found is None or out is not None or not found.numel() else found.reshape(-1).view(torch.uint8)


@mutant("keeps-tensors-apart", "TEN-02", base="tensor")
class KeepsApart(Wrapper):
    """Keeps tensors in a store of their own."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._tensors: dict[str, Any] = {}

    def put_tensor(self, client_meta: ClientMetaMessage, tensor: Any) -> None:
        """Apart, too."""
        self.inner.put_tensor(client_meta, tensor)
        self._tensors[text_of(client_meta.key)] = tensor.detach().clone()

    def get_tensor(self, key: CacheEngineKey, out: Any = None) -> Any:
        """From there."""
        found = self._tensors.get(text_of(key))
        return self.inner.get_tensor(key, out) if found is None or out is not None else found.clone()


@mutant("ignores-strides", "TEN-03", base="tensor")
class IgnoresStrides(Wrapper):
    """Stores a tensor's values as they lie in memory."""

    def put_tensor(self, client_meta: ClientMetaMessage, tensor: Any) -> None:
        """As they lie."""
        import torch

        flat = torch.as_strided(tensor, (tensor.numel(),), (1,), tensor.storage_offset())
        self.inner.put_tensor(client_meta, flat)


@mutant("stores-tensors-late", "TEN-04", base="tensor")
class StoresLate(Wrapper):
    """Keeps the caller's tensor and stores it when it is first read."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._late: dict[str, tuple[ClientMetaMessage, Any]] = {}

    def put_tensor(self, client_meta: ClientMetaMessage, tensor: Any) -> None:
        """Later."""
        self._late[text_of(client_meta.key)] = client_meta, tensor

    def _settle(self) -> None:
        while self._late:
            self.inner.put_tensor(*self._late.popitem()[1])

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """Now."""
        self._settle()
        return self.inner.get(key)

    def contains(self, key: CacheEngineKey) -> bool:
        """Now."""
        self._settle()
        return self.inner.contains(key)

    def get_tensor(self, key: CacheEngineKey, out: Any = None) -> Any:
        """Now."""
        self._settle()
        return self.inner.get_tensor(key, out)


@mutant("ignores-out", "TEN-05", base="tensor")
class IgnoresOut(Wrapper):
    """Answers a tensor of its own, whatever `out` is."""

    def get_tensor(self, key: CacheEngineKey, out: Any = None) -> Any:
        """Of its own."""
        return self.inner.get_tensor(key)


@mutant("answers-one-tensor", "TEN-06", base="tensor")
class AnswersOneTensor(Wrapper):
    """Answers the same tensor again, with other values."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._tensors: dict[Any, Any] = {}

    def get_tensor(self, key: CacheEngineKey, out: Any = None) -> Any:
        """One for each shape."""
        found = self.inner.get_tensor(key, out)
        if found is None or out is not None:
            return found
        held = self._tensors.setdefault((found.dtype, tuple(found.shape)), found)
        return held if held is found else held.copy_(found)


@mutant("fits-or-nothing", "TEN-07", base="tensor")
class FitsOrNothing(Wrapper):
    """Answers None where shape and length do not fit."""

    def get_tensor(self, key: CacheEngineKey, out: Any = None) -> Any:
        """Or None."""
        found, obj = self.inner.get_tensor(key, out), self.inner.get(key)
        if found is not None and obj is not None and tuple(found.shape) != tuple(obj.shape):
            return None
        return found


@mutant("answers-strided-tensors", "TEN-08", base="tensor")
class AnswersStrided(Wrapper):
    """Answers every other value of a tensor twice as large, for large chunks."""

    def get_tensor(self, key: CacheEngineKey, out: Any = None) -> Any:
        """Strided."""
        import torch

        found = self.inner.get_tensor(key, out)
        if found is None or out is not None or found.nbytes < 1 << 22:
            return found
        return torch.stack((found, found), dim=-1)[..., 0]


@mutant("forgets-dtypes-of-tensors", "TEN-01", base="tensor")
class ForgetsDtypes(Wrapper):
    """Stores tensors with no dtype."""

    def put_tensor(self, client_meta: ClientMetaMessage, tensor: Any) -> None:
        """Without."""
        self.inner.put_tensor(dataclasses.replace(client_meta, dtype=None), tensor)
