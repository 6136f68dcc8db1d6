"""Peaks against figures copied from the datasheets, and against those that must not be taken for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from peprof.devices.peaks import format_of_products, peak_rate

TERA = 1e12

# From the makers' sheets, dense: NVIDIA H100 (SXM, PCIe), A100, L4, T4, V100 (SXM2), Ada and Ampere papers.
PUBLISHED = [
    ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4),
    ("NVIDIA H100 80GB HBM3", "tf32", 494.7),
    ("NVIDIA H100 80GB HBM3", "float32", 67),
    ("NVIDIA H100 PCIe", "float16", 756),
    ("NVIDIA H200", "bfloat16", 989.4),
    ("NVIDIA A100-SXM4-80GB", "bfloat16", 312),
    ("NVIDIA A100-PCIE-40GB", "tf32", 156),
    ("NVIDIA A100 80GB PCIe", "float32", 19.5),
    ("NVIDIA A10", "bfloat16", 125),
    ("NVIDIA L4", "float32", 30.3),
    ("Tesla T4", "float16", 65),
    ("Tesla V100-SXM2-16GB", "float32", 15.7),
    ("NVIDIA GeForce RTX 3090", "bfloat16", 71),
    ("NVIDIA GeForce RTX 4090", "float16", 165.2),
]


@pytest.mark.parametrize(("name", "number_format", "teraflops"), PUBLISHED)
def test_peaks_are_the_published_ones(name: str, number_format: str, teraflops: float) -> None:
    found = peak_rate(name, number_format)
    assert found.flops_per_s == pytest.approx(teraflops * TERA)
    assert found.words.startswith(f"{teraflops:g} TFLOP/s: ")
    assert found.words.endswith(" (datasheet)")


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA A10G",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA L40",
        "Intel(R) Xeon(R) Platinum 8481C",
        "",
    ],
)
def test_a_device_that_is_not_known_has_no_peak_and_a_reason(name: str) -> None:
    found = peak_rate(name, "float32")
    assert found.flops_per_s is None
    assert found.words == f"no datasheet's peak is known here for '{name}'"


def test_a_format_that_a_device_does_not_have_has_no_peak() -> None:
    found = peak_rate("Tesla T4", "bfloat16")
    assert (found.flops_per_s, found.words) == (None, "no datasheet's peak is known here for bfloat16 on T4")
    assert peak_rate("NVIDIA L4", "float64").flops_per_s is None


@pytest.fixture
def _precision() -> Iterator[None]:
    before = torch.backends.cuda.matmul.fp32_precision
    yield
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.usefixtures("_precision")
def test_products_of_float32_are_in_tf32_where_torch_was_told_so() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    assert format_of_products("cuda", "float32") == "tf32"
    assert format_of_products("cpu", "float32") == "float32"
    assert format_of_products("cuda", "float32", "bfloat16") == "bfloat16"
    assert format_of_products("cuda", "float16") == "float16"
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    assert format_of_products("cuda", "float32") == "float32"
