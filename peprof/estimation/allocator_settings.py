"""The settings of torch's caching allocator, as PYTORCH_CUDA_ALLOC_CONF names them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from peprof.errors import UsageError
from peprof.gpus.blocks import BIG_BYTES, LARGE_SEGMENT_BYTES

_MIB = 2**20
_INTERVALS = 16
"""Of sizes from 1 MiB to 64 GiB, each from one power of two to the next; the outer ones reach further."""


@dataclass(frozen=True, kw_only=True)
class AllocatorSettings:
    """How the allocator behaves; the defaults are torch's.

    Args:
        max_split_size_bytes: a request for as much or more gets a block that isn't split; ``None``: all are.
        max_non_split_rounding_bytes: such a request doesn't take a block that is larger by as much or more.
        garbage_collection_threshold: of what the process may hold, where that is limited; where more is
            reserved, cached segments go back before new ones are asked for. ``None``: never.
        roundup_power2_divisions: sizes from one power of two to the next that requests are rounded to, by the
            interval from 1 MiB up; 0 and 1 for multiples of 512 bytes.
        expandable_segments: segments grow page by page instead of being asked for one by one.
        large_segment_bytes: of segments for blocks between 1 and 10 MiB, and of expandable segments' pages.
        per_process_memory_fraction: of the device's memory, what the process may hold; 1 for no limit.
    """

    max_split_size_bytes: int | None = None
    max_non_split_rounding_bytes: int = LARGE_SEGMENT_BYTES
    garbage_collection_threshold: float | None = None
    roundup_power2_divisions: tuple[int, ...] = (0,) * _INTERVALS
    expandable_segments: bool = False
    large_segment_bytes: int = LARGE_SEGMENT_BYTES
    per_process_memory_fraction: float = 1.0

    def limit_bytes(self, device_bytes: int) -> int | None:
        """What the process may hold; ``None`` for no limit.

        Args:
            device_bytes: the device's whole memory.
        """
        share = self.per_process_memory_fraction
        return int(share * device_bytes) if share < 1 else None

    def divisions_of(self, requested_bytes: int) -> int:
        """``roundup_power2_divisions`` for a request."""
        interval = requested_bytes.bit_length() - _MIB.bit_length()
        return self.roundup_power2_divisions[min(max(interval, 0), _INTERVALS - 1)]


TORCHS_OWN = AllocatorSettings()
"""Those that nobody changed."""


def parse_allocator_settings(text: str) -> AllocatorSettings:
    """Reads what PYTORCH_CUDA_ALLOC_CONF (or PYTORCH_ALLOC_CONF) holds.

    Args:
        text: ``max_split_size_mb:128,roundup_power2_divisions:[256:1,512:2,>:4]``. Settings that don't change
            what is reserved (of pinned memory, say) are read over, also where only a newer torch has them.

    Raises:
        UsageError: a setting is unknown, has a value that torch wouldn't take, or asks for another allocator.

    Example:
        >>> parse_allocator_settings("expandable_segments:True").expandable_segments
        True
    """
    settings = AllocatorSettings()
    for item in _items(text):
        key, colon, value = (part.strip() for part in item.partition(":"))
        if not colon:
            raise _wrong(item, "setting with its value", "setting:value")
        if key in _READERS:
            settings = replace(settings, **_READERS[key](value))
        elif key not in _WITHOUT_EFFECT:
            raise _unknown(key)
    return settings


def _items(text: str) -> list[str]:
    """The settings, which commas part; those in brackets don't."""
    items = re.findall(r"(?:\[[^\]]*\]|[^,\[])+", text)
    return [item.strip() for item in items if item.strip()]


def _wrong(value: str, what: str, expected: str) -> UsageError:
    return UsageError(
        f"allocator setting: '{value}' is no {what}; expected {expected}",
        hint="The settings are those of PYTORCH_CUDA_ALLOC_CONF, as torch documents them.",
    )


def _unknown(key: str) -> UsageError:
    near = get_close_matches(key, [*_READERS, *_WITHOUT_EFFECT], n=1)
    meant = f" Did you mean '{near[0]}'?" if near else ""
    return UsageError(
        f"allocator setting: there is no '{key}'.{meant}", hint=f"What changes memory: {', '.join(_READERS)}."
    )


def _megabytes(key: str, value: str, at_least: int) -> int:
    if not re.fullmatch(r"\d+", value) or int(value) < at_least:
        raise _wrong(value, key, f"a whole number of MiB, {at_least} or more")
    return int(value) * _MIB


def _max_split_size(value: str) -> Mapping[str, Any]:
    least = LARGE_SEGMENT_BYTES // _MIB
    return {"max_split_size_bytes": _megabytes("max_split_size_mb", value, least)}


def _max_rounding(value: str) -> Mapping[str, Any]:
    least = LARGE_SEGMENT_BYTES // _MIB
    return {"max_non_split_rounding_bytes": _megabytes("max_non_split_rounding_mb", value, least)}


def _large_segment(value: str) -> Mapping[str, Any]:
    return {"large_segment_bytes": _megabytes("large_segment_size_mb", value, BIG_BYTES // _MIB + 1)}


def _threshold(value: str) -> Mapping[str, Any]:
    try:
        share = float(value)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise _wrong(value, "garbage_collection_threshold", "a number between 0 and 1, both excluded")
    return {"garbage_collection_threshold": share}


def _fraction(value: str) -> Mapping[str, Any]:
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise _wrong(value, "per_process_memory_fraction", "a number from 0 to 1")
    return {"per_process_memory_fraction": share}


def _expandable(value: str) -> Mapping[str, Any]:
    if value not in ("True", "False"):
        raise _wrong(value, "expandable_segments", "True or False")
    return {"expandable_segments": value == "True"}


def _backend(value: str) -> Mapping[str, Any]:
    if value != "native":
        raise _wrong(value, "backend that is simulated", "native")
    return {}


def _roundup(value: str) -> Mapping[str, Any]:
    if not value.startswith("["):
        return {"roundup_power2_divisions": (_divisions(value),) * _INTERVALS}
    found = [0] * _INTERVALS
    last = -1
    for part in value.strip("[]").split(","):
        start, colon, divisions = (word.strip() for word in part.partition(":"))
        count = _divisions(divisions if colon else part)
        if start == ">":
            found[last + 1 :] = [count] * (_INTERVALS - last - 1)
            continue
        interval = _interval(start)
        if last < 0:
            found[:interval] = [count] * interval
        found[interval] = count
        last = interval
    return {"roundup_power2_divisions": tuple(found)}


def _divisions(text: str) -> int:
    if not re.fullmatch(r"\d+", text) or int(text) & (int(text) - 1):
        raise _wrong(text, "number of divisions (roundup_power2_divisions)", "0 or a power of two")
    return int(text)


def _interval(text: str) -> int:
    """The interval that begins at so many MiB."""
    if not re.fullmatch(r"\d+", text) or int(text) < 1 or int(text) & (int(text) - 1):
        raise _wrong(text, "size (roundup_power2_divisions)", "a power of two in MiB, or >")
    return min(int(text).bit_length() - 1, _INTERVALS - 1)


_READERS: Mapping[str, Callable[[str], Mapping[str, Any]]] = {
    "max_split_size_mb": _max_split_size,
    "max_non_split_rounding_mb": _max_rounding,
    "garbage_collection_threshold": _threshold,
    "roundup_power2_divisions": _roundup,
    "expandable_segments": _expandable,
    "large_segment_size_mb": _large_segment,
    "per_process_memory_fraction": _fraction,
    "backend": _backend,
}

_WITHOUT_EFFECT = (
    "pinned_use_background_threads",
    "pinned_max_round_threshold_mb",
    "pinned_max_cached_size_mb",
    "pinned_use_cuda_host_register",
    "pinned_use_hip_host_register",
    "pinned_num_register_threads",
    "pinned_reserve_segment_size_mb",
    "pinned_free_catch_all",
    "release_lock_on_cudamalloc",
    "release_lock_on_hipmalloc",
    "graph_capture_record_stream_reuse",  # while a graph is captured
    "throw_on_cudamalloc_oom",  # says sooner that there is no room
)
