"""Names of GPUs: as torch says them, as people do, and those that nobody knows."""

from __future__ import annotations

import pytest

from peprof.errors import UsageError
from peprof.gpus.known import KNOWN, gpu_named, gpu_of_device


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("Tesla V100-SXM2-32GB", "V100 32GB"),
        ("Tesla T4", "T4"),
        ("h100", "H100"),
        ("H100 80GB", "H100"),
        ("h100-sxm", "H100"),
        ("A100 40GB", "A100 40GB"),
        ("a100-80", "A100 80GB"),
        ("rtx4090", "RTX 4090"),
        ("RTX 4060 8GB", "RTX 4060"),
        ("GeForce RTX 5090", "RTX 5090"),
        ("nvidia l40s", "L40S"),
        ("A10G 24 GB", "A10G"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("a6000", "RTX A6000"),
        ("A5000 24GB", "RTX A5000"),
        ("NVIDIA A40", "A40"),
        ("L40", "L40"),
        ("rtx 4080", "RTX 4080"),
        ("4070ti", "RTX 4070 Ti"),
        ("RTX 4070 Ti 12GB", "RTX 4070 Ti"),
        ("NVIDIA GeForce RTX 3060", "RTX 3060 12GB"),
        ("rtx3060", "RTX 3060 12GB"),
        ("RTX 3080", "RTX 3080 10GB"),
        ("rtx3080-10", "RTX 3080 10GB"),
    ],
)
def test_names_that_people_and_torch_use(name: str, found: str) -> None:
    assert gpu_named(name).name == found


def test_a_name_that_several_have_asks_which() -> None:
    with pytest.raises(UsageError) as caught:
        gpu_named("A100")
    assert caught.value.message == "there are several GPUs called 'A100'"
    assert caught.value.hint == "Say which: 'A100 80GB' or 'A100 40GB'."


def test_a_name_that_nobody_has_names_the_nearest_and_all() -> None:
    with pytest.raises(UsageError) as caught:
        gpu_named("RTX 4900")
    assert caught.value.message == "no GPU called 'RTX 4900' is known here. Did you mean 'RTX 4090'?"
    assert (caught.value.hint or "").startswith("Known are B200, H200, ")
    assert "--memory without --device" in (caught.value.hint or "")
    with pytest.raises(UsageError, match=r"no GPU called 'toaster' is known here$"):
        gpu_named("toaster")


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3060 Ti",
        "NVIDIA GeForce RTX 4080 SUPER",
        "NVIDIA L20",
        "",
    ],
)
def test_a_device_that_only_sounds_like_one_is_none(name: str) -> None:
    assert gpu_of_device(name) is None


def test_names_are_unlike_each_other_and_each_finds_itself() -> None:
    assert len({gpu.name for gpu in KNOWN}) == len(KNOWN)
    assert [gpu_named(gpu.name) for gpu in KNOWN] == list(KNOWN)


def test_memory_is_a_little_less_than_what_is_printed_on_the_box() -> None:
    """Also against the one that a report gives to the byte: 50,865,307,648 of an RTX 6000 Ada (48 GB)."""
    printed = {
        "H200": 141e9,
        "H100": 80 * 2**30,
        "A100 40GB": 40 * 2**30,
        "T4": 16 * 2**30,
        "RTX 4060": 8 * 2**30,
        "RTX 3060": 12 * 2**30,
        "RTX 3080": 10 * 2**30,
        "RTX 4070 Ti": 12 * 2**30,
        "RTX 4080": 16 * 2**30,
        "A5000": 24 * 2**30,
        "A6000": 48 * 2**30,
        "A40": 48 * 2**30,
        "L40": 48 * 2**30,
    }
    for name, nbytes in printed.items():
        assert 0.9 * nbytes < gpu_named(name).total_bytes or name == "H200"
        assert gpu_named(name).total_bytes <= 1.07 * nbytes
    assert gpu_named("RTX 6000 Ada").total_bytes == pytest.approx(50_865_307_648, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "printed_mib"),
    [
        ("RTX 4080", 16049),
        ("A40", 45416),
        ("A5000", 24114),
        ("A6000", 48676),
        ("RTX 3060", 11910),
        ("RTX 4070 Ti", 12007),
    ],
)
def test_memory_is_what_torch_printed_of_such_devices(name: str, printed_mib: int) -> None:
    """``total_memory`` as reports on the web have it; drivers differ by some hundred MiB."""
    found_mib = gpu_named(name).total_bytes / 2**20
    assert printed_mib - 200 < found_mib <= printed_mib + 5
