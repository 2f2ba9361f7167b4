"""Torch files that travel: weights as bfloat16, in an order of bytes that compresses."""

import io
import zlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

ROUNDED = "rounded"  # the entry of a tensor that was rounded: its shape and strides
EXACT = ("losses",)  # entries of a result that decide who is chosen, and so are not rounded


def small(content: dict[str, Any], *, exact: Iterable[str] = EXACT, without: Iterable[str] = ()) -> bytes:
    """A torch file for a journey. Tensors of float32 are rounded to bfloat16, but for the entries `exact`; `without`: entries emptied.

    Memory: O(size of content).
    """
    empty = {name: torch.empty(0) if isinstance(content[name], Tensor) else {} for name in without if name in content}
    kept = {name: value if name in exact else _rounded(value) for name, value in content.items() if name not in empty}
    buffer = io.BytesIO()
    torch.save({**kept, **empty}, buffer)
    return zlib.compress(buffer.getvalue(), 1)  # 40 MB/s, to 0.70 of the size; lzma reaches 0.70 at 5 MB/s


def large(content: bytes) -> bytes:
    """The torch file that `small` packed, in float32 again. Its bytes are the same in each call."""
    state = _restored(torch.load(io.BytesIO(zlib.decompress(content)), map_location="cpu", weights_only=True))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _rounded(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype == torch.float32:
        flat = value.detach().cpu().bfloat16().reshape(-1)
        planes = flat.view(torch.uint8).reshape(-1, 2).T.contiguous()  # all low bytes, then all high ones, which are alike
        return {ROUNDED: [list(value.shape), list(value.stride())], "planes": planes}
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def _restored(value: Any) -> Any:
    if isinstance(value, dict) and ROUNDED in value:
        shape, stride = value[ROUNDED]
        flat = value["planes"].T.contiguous().reshape(-1).view(torch.bfloat16).float()
        return torch.empty_strided(shape, stride).copy_(flat.reshape(shape))  # a fused optimiser needs the strides of its weights
    if isinstance(value, dict):
        return {key: _restored(item) for key, item in value.items()}
    return [_restored(item) for item in value] if isinstance(value, list) else value
