"""Which kernel ``scaled_dot_product_attention`` takes on a GPU, and what each keeps for backward.

After aten/src/ATen/native/transformers/ (attention.cpp, sdp_utils_cpp.h, cuda/sdp_utils.cpp and
cuda/flash_attn/flash_api.cpp) of torch 2.11 to 2.13. Dense tensors of four dimensions, NVIDIA's devices, and
torch's own order of kernels are taken for granted. What differs by version is decided by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from peprof.estimation.torch_version import TorchVersion, installed_torch

Kernel = Literal["cudnn", "flash", "efficient", "math"]
"""What a GPU has."""
RecordedKernel = Literal["math", "flash_cpu"]
"""What a step's ledger has recorded: ``math`` on ``meta`` always, and on the CPU where there is dropout."""
Capability = tuple[int, int]

ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
CUDNN_OF_TORCH = 91_501
"""The cuDNN that torch's wheels for CUDA 13 come with, at least; wheels for CUDA 12 have an older one."""
_CUDNN_IS_PREFERRED_ABOVE = 91_500
_CUDNN_DROPOUT_STEPS = 16
"""Since torch 2.12 (pytorch#174245); cuDNN rounds other shares to these."""
_CUDNN_LARGEST_GRID = 65_535
"""Of examples, and of heads, since torch 2.13."""
_SEEDS_BYTES = 16


AMPERE: Capability = (8, 0)
"""What a GPU that nobody names is taken for."""


@dataclass(frozen=True, kw_only=True)
class GpuKernels:
    """What decides on a GPU's kernels of attention.

    Args:
        capability: of the GPU; (9, 0) is Hopper.
        cudnn_version: as ``torch.backends.cudnn.version()`` says it; ``None`` for no cuDNN.
        torch_version: whose rules count; ``None`` for the installed one's.
    """

    capability: Capability = AMPERE
    cudnn_version: int | None = CUDNN_OF_TORCH
    torch_version: TorchVersion | None = None

    def chosen(self, call: AttentionCall) -> Kernel:
        """The kernel that torch takes for a call."""
        return chosen_kernel(
            call, self.capability, cudnn_version=self.cudnn_version, torch_version=self.torch_version
        )


AMPERES = GpuKernels()
"""Those of a GPU that nobody names."""


@dataclass(frozen=True, kw_only=True)
class AttentionCall:
    """A call of ``scaled_dot_product_attention``.

    Args:
        dtype: of the tensors: ``float16``, ``bfloat16``, ``float32`` or ``float64``.
        batch: examples.
        heads: of the queries.
        key_heads: of keys and values, where they have fewer (``enable_gqa``); ``None`` for as many.
        queries: positions that ask.
        keys: positions that are asked.
        head_dim: of queries and keys.
        value_dim: of the values; ``None`` for ``head_dim``.
        mask: ``bool``, or ``float`` for one that is added.
        mask_elements: how many it has as it is passed, before it is broadcast.
        mask_is_trained: a bias that gets a gradient.
        causal: ``is_causal`` is set; a causal mask that is passed is a mask.
        dropout: the share that is dropped.
        trains: something gets a gradient.
    """

    dtype: str
    batch: int
    heads: int
    queries: int
    keys: int
    head_dim: int
    key_heads: int | None = None
    value_dim: int | None = None
    mask: Literal["bool", "float"] | None = None
    mask_elements: int = 0
    mask_is_trained: bool = False
    causal: bool = False
    dropout: float = 0.0
    trains: bool = True

    @property
    def shares_keys(self) -> bool:
        """Whether several heads ask the same keys."""
        return self.key_heads is not None and self.key_heads != self.heads

    @property
    def values_dim(self) -> int:
        """Of the values."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def is_half(self) -> bool:
        """Whether a number has 16 bits."""
        return self.dtype in ("float16", "bfloat16")


def chosen_kernel(
    call: AttentionCall,
    capability: Capability,
    *,
    cudnn_version: int | None = CUDNN_OF_TORCH,
    torch_version: TorchVersion | None = None,
    deterministic: bool = False,
) -> Kernel:
    """The kernel that torch takes on a GPU: the first in its order that can do it.

    Args:
        call: what is asked for.
        capability: of the GPU; (9, 0) is Hopper.
        cudnn_version: as ``torch.backends.cudnn.version()`` says it; ``None`` for no cuDNN.
        torch_version: whose rules count; ``None`` for the installed one's.
        deterministic: ``torch.use_deterministic_algorithms(True)`` was called.

    Example:
        >>> call = AttentionCall(dtype="bfloat16", batch=8, heads=12, queries=128, keys=128, head_dim=64)
        >>> chosen_kernel(call, (8, 0)), chosen_kernel(call, (9, 0)), chosen_kernel(call, (7, 5))
        ('flash', 'cudnn', 'math')
    """
    version = torch_version or installed_torch()
    if (
        _prefers_cudnn(capability, cudnn_version)
        and not deterministic
        and _can_cudnn(call, capability, version)
    ):
        return "cudnn"
    if _can_flash(call, capability):
        return "flash"
    return "efficient" if _can_efficient(call, capability) else "math"


def _prefers_cudnn(capability: Capability, cudnn_version: int | None) -> bool:
    """Elsewhere it comes after the one that can do everything."""
    if cudnn_version is None or cudnn_version <= _CUDNN_IS_PREFERRED_ABOVE:
        return False
    return capability[0] in (9, 10) and capability[1] in (0, 3)


def _can_cudnn(call: AttentionCall, capability: Capability, version: TorchVersion) -> bool:
    return (
        call.is_half
        and not (call.mask is not None and call.mask_is_trained)
        and _heads_suit_cudnn(call, capability)
        and call.keys > 1
        and not (call.queries == 1 and call.dropout > 0)
        and (version < (2, 12) or float(call.dropout * _CUDNN_DROPOUT_STEPS).is_integer())
        and (version < (2, 13) or max(call.batch, call.heads) <= _CUDNN_LARGEST_GRID)
    )


def _heads_suit_cudnn(call: AttentionCall, capability: Capability) -> bool:
    """Up to 256 on Hopper; elsewhere up to 128, and DeepSeek's 192 with values of 128 on large Blackwells."""
    dims = (call.head_dim, call.values_dim)
    limit = 256 if capability == (9, 0) else 192 if capability[0] == 10 and dims == (192, 128) else 128
    return all(dim <= limit and dim % 8 == 0 for dim in dims)


def _can_flash(call: AttentionCall, capability: Capability) -> bool:
    return (
        (8, 0) <= capability <= (12, 1)
        and call.is_half
        and call.mask is None
        and call.head_dim == call.values_dim
        and call.head_dim <= 256
        and not (call.causal and call.queries != call.keys)
        and not (call.trains and _backward_lacks_room(call, capability))
    )


def _backward_lacks_room(call: AttentionCall, capability: Capability) -> bool:
    """Of large heads, where a multiprocessor has less shared memory than an A100's."""
    if not ((8, 6) <= capability <= (8, 9) or (12, 0) <= capability <= (12, 1)):
        return False
    return 192 < call.head_dim <= 224 or (call.head_dim > 224 and call.dropout > 0)


def _can_efficient(call: AttentionCall, capability: Capability) -> bool:
    types = ("float16", "float32", "bfloat16") if capability[0] >= 8 else ("float16", "float32")
    step = _alignment(call, capability)
    return (
        (5, 0) <= capability <= (12, 1)
        and call.dtype in types
        and not call.shares_keys
        and call.head_dim % step == 0
        and call.values_dim % step == 0
    )


def _alignment(call: AttentionCall, capability: Capability) -> int:
    """What the heads' dimensions must be multiples of, for matrix units and loads of 16 bytes."""
    if capability[0] >= 8 or (capability[0] == 7 and call.is_half):
        return max(4 if capability[0] >= 8 else 1, 8 if call.is_half else 4)
    return 1


def saved_bytes(call: AttentionCall, kernel: Kernel | RecordedKernel) -> int:
    """What is kept for backward beside queries, keys, values and result, in one call.

    A float mask is none of it, as it is there anyway; a ``bool`` one is turned into a float one first.
    For ``math`` these are the bytes on the CPU and on ``meta``; ``saved_bytes_on_gpu`` knows what differs.

    Args:
        call: with ``trains``; otherwise nothing is kept.
        kernel: that does it.
    """
    if not call.trains:
        return 0
    if kernel == "math":
        return _saved_by_math(call, noise_bytes=4 if call.is_half else ITEM_BYTES[call.dtype])
    rows = call.batch * call.heads * call.queries
    mask = call.mask_elements * ITEM_BYTES[call.dtype] if call.mask == "bool" else 0
    if kernel == "flash_cpu":
        return rows * (8 if call.dtype == "float64" else 4) + mask
    if kernel == "efficient":
        return call.batch * call.heads * _up(call.queries, 32) * 4 + _SEEDS_BYTES + mask
    if kernel == "cudnn":
        return rows * 4 + _SEEDS_BYTES + mask
    return rows * 4 + _SEEDS_BYTES + 8 + _padded_for_flash(call)


def saved_bytes_on_gpu(call: AttentionCall, kernel: Kernel) -> int:
    """``saved_bytes`` on a GPU, where dropout without a fused kernel keeps a byte for each decision."""
    if call.trains and kernel == "math":
        return _saved_by_math(call, noise_bytes=1)
    return saved_bytes(call, kernel)


def _saved_by_math(call: AttentionCall, *, noise_bytes: int) -> int:
    """Scaled queries and keys, the probabilities, and what they are made of where types or heads differ."""
    item = 4 if call.is_half else ITEM_BYTES[call.dtype]  # 16 bits are turned into 32 to be exact
    rows = call.batch * call.heads
    kept = rows * (call.queries + call.keys) * call.head_dim * item
    if call.is_half or call.shares_keys:
        kept += rows * call.keys * call.values_dim * item
    weights = rows * call.queries * call.keys
    kept += weights * item
    if call.dropout > 0:
        kept += weights * (noise_bytes + item)
    return kept


def _padded_for_flash(call: AttentionCall) -> int:
    """Heads whose dimension isn't a multiple of 8 are copied into larger ones; the result is cut from one."""
    if call.head_dim % 8 == 0:
        return 0
    key_heads = call.key_heads if call.key_heads is not None else call.heads
    positions = call.heads * call.queries + 2 * key_heads * call.keys
    return call.batch * positions * _up(call.head_dim, 8) * ITEM_BYTES[call.dtype]


def backward_scratch(call: AttentionCall, kernel: Kernel) -> tuple[int, ...] | None:
    """What a kernel allocates inside of its backward, bytes a block; ``None`` where it isn't known.

    Of ``flash`` (``mha_bwd`` of flash_api.cpp) it is a sum a row and the queries' gradient, both in float32
    and rounded up, and keys' and values' gradients for each head where heads share them (deterministic
    algorithms need several times the second). Of ``math`` nothing is inside: its operators are all seen.
    """
    if kernel == "math":
        return ()
    if kernel != "flash":
        return None
    dim = _up(call.head_dim, 8)
    rounded_dim = _up(dim, 32) if dim <= 192 else 256
    rows = call.batch * call.heads * _up(call.queries, 128)
    sums = (rows * 4, rows * rounded_dim * 4)
    expanded = call.batch * call.heads * call.keys * dim * ITEM_BYTES[call.dtype]
    return (*sums, expanded, expanded) if call.shares_keys else sums


def inputs_kept_bytes(call: AttentionCall, kernel: Kernel | RecordedKernel) -> int:
    """Queries, keys and values as far as a kernel keeps themselves, and not what it has made of them.

    Fused kernels keep all three, if they needn't be padded; ``math`` keeps values, and these only in 32 bits
    and where each head has its own.
    """
    if not call.trains or (kernel == "flash" and call.head_dim % 8):
        return 0
    key_heads = call.key_heads if call.key_heads is not None else call.heads
    values = call.batch * key_heads * call.keys * call.values_dim
    if kernel == "math":
        return 0 if call.is_half or call.shares_keys else values * ITEM_BYTES[call.dtype]
    queries = call.batch * call.heads * call.queries * call.head_dim
    keys = call.batch * key_heads * call.keys * call.head_dim
    return (queries + keys + values) * ITEM_BYTES[call.dtype]


def more_than_recorded(call: AttentionCall, kernel: Kernel, recorded: RecordedKernel) -> int:
    """By how many bytes more is kept on a GPU than a step's ledger has recorded; negative for less.

    Nobody else is taken to keep queries, keys and values; what comes next is taken to keep the result.

    Example:
        >>> call = AttentionCall(dtype="float32", batch=1, heads=1, queries=32, keys=32, head_dim=16)
        >>> more_than_recorded(call, "efficient", "math")  # probabilities and 5 matrices against 144 B and 3
        -3952
    """
    on_gpu = saved_bytes_on_gpu(call, kernel) + inputs_kept_bytes(call, kernel)
    return on_gpu - saved_bytes(call, recorded) - inputs_kept_bytes(call, recorded)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
