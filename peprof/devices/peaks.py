"""Peak rates of devices from their makers' datasheets, which achieved rates are held against.

Dense ones: sheets also print twice as much for matrices half of whose entries are zeros in a pattern, which
nobody reaches in training. A device that isn't here, or a number format that a sheet doesn't have, has no
peak: a guess would make any utilisation out of any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from peprof.gpus.known import gpu_of_device

NumberFormat = Literal["float32", "tf32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class PeakRate:
    """What a device can do at most, as its maker says.

    Args:
        flops_per_s: ``None`` where it isn't known.
        words: which peak it is; or why there is none.
    """

    flops_per_s: float | None
    words: str


_HOPPER_SXM: dict[NumberFormat, float] = {"float32": 67, "tf32": 494.7, "bfloat16": 989.4, "float16": 989.4}
_HOPPER_NVL: dict[NumberFormat, float] = {"float32": 60, "tf32": 417.5, "bfloat16": 835.5, "float16": 835.5}

_TERAFLOPS: dict[str, dict[NumberFormat, float]] = {
    "B200": {"bfloat16": 2250, "float16": 2250},
    "H200 SXM": _HOPPER_SXM,
    "H200 NVL": _HOPPER_NVL,
    "H100 SXM": _HOPPER_SXM,
    "H100 PCIe": {"float32": 51, "tf32": 378, "bfloat16": 756, "float16": 756},
    "H100 NVL": _HOPPER_NVL,
    "A100": {"float32": 19.5, "tf32": 156, "bfloat16": 312, "float16": 312},
    "A10": {"float32": 31.2, "tf32": 62.5, "bfloat16": 125, "float16": 125},
    "L4": {"float32": 30.3, "tf32": 60, "bfloat16": 121, "float16": 121},
    "L40S": {"float32": 91.6, "tf32": 183, "bfloat16": 362.05, "float16": 362.05},
    "T4": {"float32": 8.1, "float16": 65},
    "V100 SXM2": {"float32": 15.7, "float16": 125},
    "V100 PCIe": {"float32": 14, "float16": 112},
    "RTX 3090": {"float32": 35.6, "tf32": 35.6, "bfloat16": 71, "float16": 71},
    "RTX 4090": {"float32": 82.6, "tf32": 82.6, "bfloat16": 165.2, "float16": 165.2},
}
"""Datasheets by their headings, in 10^12 operations a second.

Products of float16 and bfloat16 are those that are summed up in float32, as torch does.
"""


def peak_rate(device_name: str, number_format: str) -> PeakRate:
    """The dense peak of a device for products in a number format.

    Args:
        device_name: as torch and NVML call it, ``NVIDIA H100 80GB HBM3``.
        number_format: ``float32``, ``tf32``, ``bfloat16`` or ``float16``.

    Example:
        >>> peak_rate("NVIDIA L4", "tf32")
        PeakRate(flops_per_s=60000000000000.0, words='60 TFLOP/s: L4, dense TF32 (datasheet)')
    """
    gpu = gpu_of_device(device_name)
    sheet = _TERAFLOPS.get(gpu.called) if gpu is not None else None
    if gpu is None or sheet is None:
        return PeakRate(flops_per_s=None, words=f"no datasheet's peak is known here for '{device_name}'")
    known = {str(name): rate for name, rate in sheet.items()}
    if number_format not in known:
        return PeakRate(
            flops_per_s=None, words=f"no datasheet's peak is known here for {number_format} on {gpu.called}"
        )
    rate = known[number_format]
    name = {"tf32": "TF32"}.get(number_format, number_format)
    return PeakRate(
        flops_per_s=rate * 1e12, words=f"{rate:g} TFLOP/s: {gpu.called}, dense {name} (datasheet)"
    )


def format_of_products(kind: str, dtype: str, autocast: str | None = None) -> str:
    """The number format in which a step's products are done on a device, by torch's settings as they are now.

    Args:
        kind: ``cpu`` or ``cuda``.
        dtype: of the weights.
        autocast: the type of autocast; ``None`` for none.

    Returns:
        ``tf32`` where torch may do float32's products in that on a GPU; otherwise the type's name.
    """
    done_in = autocast or dtype
    return "tf32" if done_in == "float32" and kind == "cuda" and _tf32_is_allowed() else done_in


def _tf32_is_allowed() -> bool:
    """Set for products, or for all backends where nothing is set for products."""
    precision = torch.backends.cuda.matmul.fp32_precision
    if precision == "none":
        precision = getattr(torch.backends, "fp32_precision", "none")
    return bool(precision == "tf32")
