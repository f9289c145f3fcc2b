"""TEN, by what a tensor is: a part of a larger one, one with a gradient, one number, or none."""

from __future__ import annotations

from functools import partial
from typing import Any

from lms_conformance.chunks import Chunk, key
from lms_conformance.reading import flat
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.violation import expect
from lms_tiers.messages import torch_dtype


def _parts(device: Any) -> dict[str, Any]:
    """Tensors by what is special about them, of values that differ."""
    import torch

    base = torch.arange(4096, dtype=torch.float32, device=device).reshape(16, 16, 16) + 0.5
    gradient = base.clone().requires_grad_()
    return {
        "a part behind the beginning": base[3:5],
        "a row": base[7, 9],
        "every other row": base[1::2, ::3],
        "one row, repeated by a stride of 0": base[5, 5].expand(6, 16),
        "values in reverse": base[2].flip(0),
        "one number": base[4, 4, 4],
        "no numbers": base[3:3],
        "a leaf that has a gradient": gradient,
        "a part that has a gradient": gradient[2:4] * 2,
        "what was permuted": base.permute(2, 0, 1)[:5],
    }


@prop(
    "TEN-09",
    "A tensor that is a part of another, has a gradient, one number or none is stored as its own values, no other.",
    since="1.1",
)
def _own_values(trial: Trial) -> None:
    import torch

    backend = trial.open()
    device = getattr(backend.backend, "device", "cpu")
    for name, tensor in _parts(device).items():
        for dtype in ("float32", "bfloat16"):
            kind = torch_dtype(dtype)
            part = tensor if dtype == "float32" else tensor.to(kind)
            want = flat(part.detach().clone(memory_format=torch.contiguous_format))
            chunk = Chunk(literal=want, meta=(dtype, "KV_2LTD", tuple(part.shape)))
            trial.record(f"# put_tensor of {name}, {dtype} {tuple(part.shape)}")
            message = chunk.message(key("a"))
            trial.allows(partial(backend.backend.put_tensor, message, part), f"put_tensor of {name}")
            trial.ran(1)
            backend.expect_chunk("a", chunk, f"the values of {name}")
            room = torch.full((len(want) + 64,), 0xA5, dtype=torch.uint8, device=device)
            found = backend.get_tensor("a", room[32 : 32 + len(want)]) if want else None
            if found is not None:
                expect(
                    flat(room[32 : 32 + len(want)]) == want, f"`out`, a part of another, to hold {name}", "other bytes"
                )
                beside = flat(room[:32]) + flat(room[32 + len(want) :])
                expect(beside == b"\xa5" * 64, "what lies beside `out` untouched", beside)
