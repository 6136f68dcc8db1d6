"""Bytes of weights in 4 and 8 bits, of optimizers' states, and of what an optimizer's step needs meanwhile.

Sums by formula: what the stand-ins for bitsandbytes' layers and optimizers on ``meta``, and bitsandbytes' own
on a device, are held to (``peprof.training.quantised_on_meta``, ``optimizers_on_meta``). NF4 and
double quantisation are those of QLoRA (Dettmers et al. 2023, arXiv:2305.14314), states in 8 bits those of
8-bit optimizers (Dettmers et al. 2021, arXiv:2110.02861), both with the block sizes of bitsandbytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

# These numbers stand in the stand-ins too, on purpose: the sums here are what those are held to, and would
# share a mistake if they took the numbers from there.
NF4_BLOCK = 64
"""Weights that share one absolute maximum."""
DOUBLE_BLOCK = 256
"""Absolute maxima that share one of their own, once they are in 8 bits."""
STATE_BLOCK = 256
"""States that share one absolute maximum: bitsandbytes' number; the paper's, and its own before, is 2048."""
LEAST_STATE_ELEMENTS = 4096
"""Smaller parameters keep states in 32 bits, and so do bitsandbytes' own embeddings."""
_CODE_BYTES = 256 * 4
_NF4_CODE_BYTES = 16 * 4

Implementation = Literal["for-loop", "foreach", "fused"]


def nf4_bytes(elements: int, *, double: bool = True, block: int = NF4_BLOCK) -> int:
    """A matrix in NF4: half a byte a weight, and an absolute maximum in float32 a block.

    With double quantisation the maxima are in 8 bits, with one in float32 for every 256 of them and one mean.
    The tables of values (64 B; 1,024 B more with double quantisation) are of the matrix as well.

    Args:
        elements: weights.
        double: quantise the maxima as well.
        block: weights that share a maximum.

    Example:
        >>> round(8 * nf4_bytes(2**24, double=False) / 2**24, 3), round(8 * nf4_bytes(2**24) / 2**24, 3)
        (4.5, 4.127)
    """
    maxima = -(-elements // block)
    packed = -(-elements // 2) + _NF4_CODE_BYTES
    if not double:
        return packed + 4 * maxima
    return packed + maxima + 4 * -(-maxima // DOUBLE_BLOCK) + 4 + _CODE_BYTES


def int8_bytes(rows: int, columns: int) -> int:
    """A matrix in LLM.int8() (arXiv:2208.07339): a byte a weight, and an absolute maximum in float32 a row.

    Example:
        >>> int8_bytes(4096, 4096)
        16793600
    """
    return rows * columns + 4 * rows


def state_bytes(
    elements: int, *, states: int = 2, bits: Literal[8, 32] = 32, block: int = STATE_BLOCK
) -> int:
    """A parameter's optimizer states.

    Args:
        elements: of the parameter.
        states: for each of its elements: 2 of Adam, 1 of momentum and of Lion.
        bits: 8 for quantised ones, each block of which has a maximum in float32. The two tables of 256 values
            are shared by all parameters of a device (``STATE_TABLES_BYTES``).
        block: states that share a maximum.

    Example:
        >>> state_bytes(2**20, bits=8), state_bytes(2**20), state_bytes(4095, bits=8)
        (2129920, 8388608, 32760)
    """
    if bits == 32 or elements < LEAST_STATE_ELEMENTS:
        return 4 * states * elements
    return states * (elements + 4 * -(-elements // block))


STATE_TABLES_BYTES = 2 * _CODE_BYTES
"""The values that 8 bits stand for, signed and unsigned."""


def adam_scratch_bytes(
    sizes: Sequence[int], implementation: Implementation, *, decays_gradient: bool = False
) -> int:
    """What torch's Adam or AdamW needs at most while it steps, beside parameters, gradients and states.

    ``foreach``, torch's choice on a GPU, works on all parameters of a type at once and needs the roots of all
    second moments. ``for-loop`` needs two copies of a parameter, and one of that before, whose name still
    holds it. ``fused`` needs none.

    Args:
        sizes: bytes of each parameter of one type, in order.
        implementation: as ``foreach=`` and ``fused=`` choose it.
        decays_gradient: Adam's ``weight_decay``, for which gradients are copied first; not AdamW's.

    Example:
        >>> adam_scratch_bytes([4000, 12000, 8000], "foreach")
        24000
    """
    if implementation == "fused":
        return 0
    if implementation == "foreach":
        return sum(sizes)
    copies = 3 if decays_gradient else 2
    before = [0, *sizes]
    return max((last + copies * size for last, size in zip(before, sizes, strict=False)), default=0)


def autocast_weight_bytes(elements: Iterable[int], *, element_bytes: int = 2) -> int:
    """Copies of float32 weights in a shorter type that ``torch.autocast`` keeps until its context ends.

    Only weights that get a gradient are kept (and only with ``cache_enabled``, which is the default); a
    frozen weight is copied anew for each use, and the copy lives as long as backward needs it.

    On ``meta`` torch's own autocast casts nothing, neither for ``cuda`` (which switches itself off where
    there is no GPU) nor for ``cpu`` (which looks at the CPU's tensors only); ``autocast_on_meta`` does.

    Args:
        elements: of each weight that gets a gradient and is used in a product or convolution.
        element_bytes: of the shorter type.

    Example:
        >>> autocast_weight_bytes([768 * 768, 768])
        1181184
    """
    return element_bytes * sum(elements)
