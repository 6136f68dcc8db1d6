"""Peak rates of devices from their makers' datasheets, which achieved rates are held against.

Dense ones: sheets also print twice as much for matrices half of whose entries are zeros in a pattern, which
nobody reaches in training. A device that isn't here, or a number format that a sheet doesn't have, has no
peak: a guess would make any utilisation out of any time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch

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


@dataclass(frozen=True, kw_only=True)
class _Sheet:
    """A datasheet: what torch and NVML call the device, what people call it, and 10^12 operations a second.

    Products of float16 and bfloat16 are those that are summed up in float32, as torch does.
    """

    names: str
    called: str
    teraflops: dict[NumberFormat, float]


_HOPPER_SXM: dict[NumberFormat, float] = {"float32": 67, "tf32": 494.7, "bfloat16": 989.4, "float16": 989.4}
_HOPPER_NVL: dict[NumberFormat, float] = {"float32": 60, "tf32": 417.5, "bfloat16": 835.5, "float16": 835.5}

# The whole name must fit: an H100 NVL isn't an H100, nor is a slice (MIG) of one, nor an A10G an A10.
_SHEETS = (
    _Sheet(
        names=r"NVIDIA B200",
        called="B200",
        teraflops={"bfloat16": 2250, "float16": 2250},
    ),
    _Sheet(names=r"NVIDIA H200", called="H200 SXM", teraflops=_HOPPER_SXM),
    _Sheet(names=r"NVIDIA H200 NVL", called="H200 NVL", teraflops=_HOPPER_NVL),
    _Sheet(names=r"NVIDIA H100 80GB HBM3", called="H100 SXM", teraflops=_HOPPER_SXM),
    _Sheet(
        names=r"NVIDIA H100 PCIe",
        called="H100 PCIe",
        teraflops={"float32": 51, "tf32": 378, "bfloat16": 756, "float16": 756},
    ),
    _Sheet(names=r"NVIDIA H100 NVL", called="H100 NVL", teraflops=_HOPPER_NVL),
    _Sheet(
        names=r"(NVIDIA )?A100[- ](SXM4|SXM|PCIE|PCIe|80GB PCIe)([- ](40|80)GB)?",
        called="A100",
        teraflops={"float32": 19.5, "tf32": 156, "bfloat16": 312, "float16": 312},
    ),
    _Sheet(
        names=r"NVIDIA A10",
        called="A10",
        teraflops={"float32": 31.2, "tf32": 62.5, "bfloat16": 125, "float16": 125},
    ),
    _Sheet(
        names=r"NVIDIA L4",
        called="L4",
        teraflops={"float32": 30.3, "tf32": 60, "bfloat16": 121, "float16": 121},
    ),
    _Sheet(
        names=r"NVIDIA L40S",
        called="L40S",
        teraflops={"float32": 91.6, "tf32": 183, "bfloat16": 362.05, "float16": 362.05},
    ),
    _Sheet(names=r"(NVIDIA |Tesla )T4", called="T4", teraflops={"float32": 8.1, "float16": 65}),
    _Sheet(
        names=r"Tesla V100-SXM2-(16|32)GB",
        called="V100 SXM2",
        teraflops={"float32": 15.7, "float16": 125},
    ),
    _Sheet(
        names=r"Tesla V100-PCIE-(16|32)GB",
        called="V100 PCIe",
        teraflops={"float32": 14, "float16": 112},
    ),
    _Sheet(
        names=r"NVIDIA GeForce RTX 3090",
        called="RTX 3090",
        teraflops={"float32": 35.6, "tf32": 35.6, "bfloat16": 71, "float16": 71},
    ),
    _Sheet(
        names=r"NVIDIA GeForce RTX 4090",
        called="RTX 4090",
        teraflops={"float32": 82.6, "tf32": 82.6, "bfloat16": 165.2, "float16": 165.2},
    ),
)


def peak_rate(device_name: str, number_format: str) -> PeakRate:
    """The dense peak of a device for products in a number format.

    Args:
        device_name: as torch and NVML call it, ``NVIDIA H100 80GB HBM3``.
        number_format: ``float32``, ``tf32``, ``bfloat16`` or ``float16``.

    Example:
        >>> peak_rate("NVIDIA L4", "tf32")
        PeakRate(flops_per_s=60000000000000.0, words='60 TFLOP/s: L4, dense TF32 (datasheet)')
    """
    sheet = next((sheet for sheet in _SHEETS if re.fullmatch(sheet.names, device_name.strip())), None)
    if sheet is None:
        return PeakRate(flops_per_s=None, words=f"no datasheet's peak is known here for '{device_name}'")
    known = {str(name): rate for name, rate in sheet.teraflops.items()}
    if number_format not in known:
        return PeakRate(
            flops_per_s=None, words=f"no datasheet's peak is known here for {number_format} on {sheet.called}"
        )
    rate = known[number_format]
    name = {"tf32": "TF32"}.get(number_format, number_format)
    return PeakRate(
        flops_per_s=rate * 1e12, words=f"{rate:g} TFLOP/s: {sheet.called}, dense {name} (datasheet)"
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
