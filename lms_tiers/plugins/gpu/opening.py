"""Which device a location of the gpu backend names."""

from __future__ import annotations

from lms_tiers.errors import ConfigError
from lms_tiers.plugins.gpu.streams import HostStreams, Streams
from lms_tiers.plugins.gpu.torch_streams import TorchStreams


def open_streams(location: str) -> Streams:
    """The device of ``gpu:LOCATION``: an index, a torch device such as ``xpu:1``, ``cpu``, or nothing for the first.

    Raises
    ------
    ConfigError
        The text names no device.
    StorageUnavailableError
        There is no such device here; says what is missing.
    """
    import torch

    if location == "cpu":
        return HostStreams()
    accelerator = torch.accelerator.current_accelerator()
    text = location or "0"
    if text.isdecimal():
        kind = accelerator.type if accelerator is not None else "cuda"
        text = f"{kind}:{text}"
    try:
        device = torch.device(text)
    except RuntimeError:
        raise ConfigError(
            f"gpu:{location} names no device: write an index (gpu:0), a torch device (gpu:xpu:0), or gpu:cpu."
        ) from None
    return TorchStreams(torch.device(device.type, device.index or 0))
