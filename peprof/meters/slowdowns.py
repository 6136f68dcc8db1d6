"""Why a GPU's clocks were held down: the management library's bits and policies, in words.

https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html and ``nvmlPerfPolicyType_t``.
"""

from __future__ import annotations

from collections.abc import Mapping

REASONS: dict[int, str] = {
    0x1: "idle",
    0x2: "application_clocks",
    0x4: "power_cap",
    0x8: "hardware_slowdown",
    0x10: "sync_boost",
    0x20: "thermal",
    0x40: "hardware_thermal",
    0x80: "power_brake",
    0x100: "display_clocks",
    0x200: "board_limit",
    0x400: "reliability",
}
"""Bits of ``nvmlDeviceGetCurrentClocksEventReasons``."""

POLICIES: dict[int, str] = {
    0: "power",
    1: "thermal",
    2: "sync_boost",
    3: "board_limit",
    5: "reliability",
}
"""Policies of ``nvmlDeviceGetViolationStatus``, without those that say that there was little to do, and
without the totals."""

WORDS: dict[str, str] = {
    "power_cap": "its power limit",
    "power": "its power limit",
    "hardware_slowdown": "the hardware's emergency slow-down (heat or power supply)",
    "sync_boost": "a slower GPU that it is synchronised with",
    "thermal": "heat",
    "hardware_thermal": "heat, by the hardware itself",
    "power_brake": "the power supply (power brake)",
    "board_limit": "the board's limits",
    "reliability": "limits of reliability (voltage)",
}
"""Those that mean that it could have been faster. Idle, and clocks that somebody has set, aren't among them:
those are the same from run to run."""

NOTABLE_SHARE = 0.05
"""Of a window's time, from which on a slow-down is worth a warning."""


def names_of(bits: int) -> tuple[str, ...]:
    """The reasons in a set of bits; one that isn't known here goes by its number."""
    return tuple(
        REASONS.get(1 << place, f"bit_{place}") for place in range(bits.bit_length()) if bits >> place & 1
    )


def slowdown_warnings(
    reasons: Mapping[str, float], violations_s: Mapping[str, float], seconds: float
) -> tuple[str, ...]:
    """What a reader should know: clocks that were held down for a notable time.

    Args:
        reasons: name -> share of the looks at which it was given.
        violations_s: policy -> seconds; they see what happens between looks.
        seconds: of the window.
    """
    shares: dict[str, float] = {}
    for name, share in [*reasons.items(), *((name, held / seconds) for name, held in violations_s.items())]:
        words = WORDS.get(name)
        if words is not None and share >= NOTABLE_SHARE:
            shares[words] = max(shares.get(words, 0.0), min(share, 1.0))
    return tuple(
        f"the GPU's clocks were held down for {share:.0%} of the time that energy was measured, by {words}: "
        "elsewhere, or later, the same steps may be faster"
        for words, share in sorted(shares.items(), key=lambda item: -item[1])
    )
