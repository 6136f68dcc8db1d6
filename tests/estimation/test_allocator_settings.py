"""The settings' text, against what torch's own parser makes of it, and against what torch refuses."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from peprof.errors import UsageError
from peprof.estimation.allocator_settings import AllocatorSettings, parse_allocator_settings

MIB = 2**20
SYMBOL = "_ZN3c1016CachingAllocator26AcceleratorAllocatorConfig24roundup_power2_divisionsEm"
SIZES = [(1 << power) + more for power in range(9, 40) for more in (0, 1)]


@pytest.fixture
def divisions_of() -> Iterator[Callable[[str, int], int]]:
    """torch's parser, and its answer for a size; it is in the library that CPU builds have too."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libc10.so"))
    ask = getattr(library, SYMBOL, None)
    configure = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    if ask is None or configure is None:
        pytest.skip("this torch's parser can't be reached")
    ask.restype, ask.argtypes = ctypes.c_size_t, [ctypes.c_size_t]

    def answer(text: str, size: int) -> int:
        configure(text)
        return int(ask(size))

    yield answer
    configure("roundup_power2_divisions:[1:0,>:0]")


@pytest.mark.parametrize(
    "value",
    [
        "4",
        "[256:1,512:2,1024:4,>:8]",
        "[64:8,128:2,256:4,512:2,1024:4,>:1]",
        "[64:8,256:4,>:2]",
        "[1:2,>:16]",
        "[8:4]",
        "[65536:2]",
        "[1:4,2:0,4:4]",
    ],
)
def test_divisions_are_those_that_torch_reads(value: str, divisions_of: Callable[[str, int], int]) -> None:
    text = f"roundup_power2_divisions:{value}"
    divisions_of("roundup_power2_divisions:[1:0,>:0]", 1)  # what was set before stays where nothing is said
    settings = parse_allocator_settings(text)
    assert [settings.divisions_of(size) for size in SIZES] == [divisions_of(text, size) for size in SIZES]


def test_all_settings_together() -> None:
    text = (
        "max_split_size_mb:40, max_non_split_rounding_mb:30,garbage_collection_threshold:0.5,"
        "roundup_power2_divisions:[64:8,>:1],expandable_segments:True,large_segment_size_mb:32,backend:native,"
        "pinned_use_background_threads:True"
    )
    assert parse_allocator_settings(text) == AllocatorSettings(
        max_split_size_bytes=40 * MIB,
        max_non_split_rounding_bytes=30 * MIB,
        garbage_collection_threshold=0.5,
        roundup_power2_divisions=(8,) * 7 + (1,) * 9,
        expandable_segments=True,
        large_segment_bytes=32 * MIB,
    )


def test_all_that_torch_knows_is_taken_or_read_over() -> None:
    """The keys of ``CUDAAllocatorConfig::getKeys`` in the header that comes with the installed torch."""
    header = (Path(torch.__file__).parent / "include/c10/cuda/CUDAAllocatorConfig.h").read_text()
    listed = re.sub(r"//.*", "", header.split("keys{", 1)[1].split("}", 1)[0])
    keys = {re.sub(r'"\s*"', "", words).strip().strip('"') for words in listed.split(",")}
    assert {"backend", "per_process_memory_fraction", "graph_capture_record_stream_reuse"} <= keys
    for key in keys:
        value = {"backend": "native", "per_process_memory_fraction": "0.5"}.get(key, "True")
        settings = parse_allocator_settings(f"{key}:{value}")
        plain = AllocatorSettings()
        assert replace(settings, per_process_memory_fraction=1.0) == plain


def test_what_only_some_versions_know_is_read_over() -> None:
    """As the headers of the wheels have them: the first two are in 2.11, the others since 2.12."""
    text = (
        "graph_capture_record_stream_reuse:True,per_process_memory_fraction:0.25,"
        "throw_on_cudamalloc_oom:True,pinned_free_catch_all:True"
    )
    assert parse_allocator_settings(text) == AllocatorSettings(per_process_memory_fraction=0.25)


def test_a_fraction_limits_what_a_process_may_hold() -> None:
    """``setMemoryFraction``: a limit only below 1, in whole bytes."""
    assert AllocatorSettings().limit_bytes(1000) is None
    assert AllocatorSettings(per_process_memory_fraction=0.25).limit_bytes(1003) == 250
    assert AllocatorSettings(per_process_memory_fraction=0.0).limit_bytes(1003) == 0


def test_nothing_set_is_torchs_default() -> None:
    assert parse_allocator_settings("") == AllocatorSettings()
    assert AllocatorSettings().max_split_size_bytes is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_split_size_mb:19", "'19' is no max_split_size_mb; expected a whole number of MiB, 20 or more"),
        ("large_segment_size_mb:10", "'10' is no large_segment_size_mb; expected a whole number of MiB, 11"),
        ("garbage_collection_threshold:1.0", "expected a number between 0 and 1, both excluded"),
        ("garbage_collection_threshold:much", "'much' is no garbage_collection_threshold"),
        ("roundup_power2_divisions:3", "'3' is no number of divisions"),
        ("roundup_power2_divisions:[100:2]", "'100' is no size (roundup_power2_divisions)"),
        (
            "per_process_memory_fraction:1.5",
            "'1.5' is no per_process_memory_fraction; expected a number from",
        ),
        ("per_process_memory_fraction:half", "'half' is no per_process_memory_fraction"),
        ("expandable_segments:true", "'true' is no expandable_segments; expected True or False"),
        ("backend:cudaMallocAsync", "'cudaMallocAsync' is no backend that is simulated; expected native"),
        ("max_split_size:20", "there is no 'max_split_size'. Did you mean 'max_split_size_mb'?"),
        ("max_split_size_mb", "'max_split_size_mb' is no setting with its value"),
    ],
)
def test_what_torch_would_not_take_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_allocator_settings(text)
    assert message in caught.value.message
    assert caught.value.hint
