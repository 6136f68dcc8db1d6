"""What is out of memory and what only sounds like it, in the words of torch and the CUDA libraries."""

from __future__ import annotations

import pytest
import torch

from peprof.devices.memory_errors import as_out_of_memory

ASYNCHRONOUS = """CUDA error: out of memory
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be \
incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."""


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError(ASYNCHRONOUS),
        RuntimeError(ASYNCHRONOUS),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError(
            "NVML_SUCCESS == r INTERNAL ASSERT FAILED at "
            '"/pytorch/c10/cuda/CUDACachingAllocator.cpp":1016, please report a bug to PyTorch. '
        ),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        MemoryError(),
    ],
)
def test_a_full_device_is_recognised_where_the_error_does_not_say_what_was_asked_for(
    error: BaseException,
) -> None:
    found = as_out_of_memory(error)
    assert found is not None and found.requested_bytes is None


def test_an_error_that_was_raised_anew_as_a_plain_one_keeps_what_was_asked_for() -> None:
    text = "Caught OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 79.11 GiB"
    found = as_out_of_memory(RuntimeError(text))
    assert found is not None and found.requested_bytes == 2 * 2**30


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
        RuntimeError("out of resource: shared memory, Required: 131072, Hardware limit: 101376"),
        RuntimeError("the tokenizer's cache is out of memory slots"),
        ValueError("CUDA error: out of memory"),
    ],
)
def test_other_errors_are_not_taken_for_it(error: BaseException) -> None:
    assert as_out_of_memory(error) is None
