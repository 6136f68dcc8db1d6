"""What a method has to save, and how large it is as a safetensors file: computed, not written.

A disk that is full at the end must not cost the training that came before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

# As the format names them, in the order in which its library lays them out; within one dtype, by name.
# The order decides how many digits the offsets in the header have.
_DTYPES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ORDER = {dtype: place for place, dtype in enumerate(_DTYPES)}

_LENGTH_BYTES = 8
_ALIGNMENT_BYTES = 8


def state_to_save(model: nn.Module, method: Any) -> dict[str, torch.Tensor]:
    """What a method has to save: what it says itself, or all trained parameters by name, shared ones once."""
    if hasattr(method, "adapter_state"):
        state: dict[str, torch.Tensor] = method.adapter_state(model)
        return state
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def checkpoint_bytes(model: nn.Module, method: Any) -> int:
    """Size on disk, in bytes, that this state would have as safetensors."""
    return safetensors_bytes(state_to_save(model, method))


def safetensors_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    """Bytes of a safetensors file without metadata, to the byte; no value is read.

    The file is the header's length (8 bytes), the header (compact JSON in UTF-8: dtype, shape and offsets by
    name, filled up with spaces to a multiple of 8), and the tensors without gaps.
    Source: https://github.com/huggingface/safetensors#format

    Args:
        tensors: of any shapes and devices, ``meta`` included.

    Raises:
        ValueError: a dtype that the format doesn't have.
    """
    header: dict[str, dict[str, object]] = {}
    offset = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise ValueError(
                f"'{name}' can't be saved as safetensors: there is no {tensor.dtype} in the format"
            )
    for name, tensor in sorted(tensors.items(), key=lambda item: (_ORDER[item[1].dtype], item[0])):
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    written = len(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode())
    return _LENGTH_BYTES + written + -written % _ALIGNMENT_BYTES + offset
