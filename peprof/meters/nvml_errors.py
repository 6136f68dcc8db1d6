"""The errors of NVIDIA's management library in words: what was wrong, and where it helps what to do."""

from __future__ import annotations

NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, FUNCTION_NOT_FOUND, MISMATCHED_ARGUMENT = 3, 4, 6, 13, 25

WORDS: dict[int, str] = {
    1: "the management library's session has ended (uninitialized)",
    2: "the management library takes it for a wrong question (invalid argument)",
    3: "this device doesn't tell it (not supported)",
    4: "it needs permission: administrators, or those whom the driver's settings allow",
    5: "the management library was opened twice (already initialized)",
    6: "it isn't there (not found)",
    7: "the management library asks for more room (insufficient size)",
    8: "the device's power cables aren't all connected (insufficient power)",
    9: "NVIDIA's driver isn't loaded",
    10: "the device didn't answer in time (timeout)",
    11: "the kernel has a problem with the device's interrupts",
    12: "NVIDIA's management library isn't installed (in a container: capability 'utility' is missing)",
    13: "the installed driver is too old for this question (function not found)",
    14: "the device's own memory of its settings is corrupted (infoROM)",
    15: "the device has fallen off the bus, or can't be reached (GPU is lost)",
    16: "the device must be reset before it answers",
    17: "the operating system has blocked it: in a container, the device's files are missing",
    18: "driver and management library are of different versions: restart the machine, or reload the driver",
    19: "the device is in use",
    20: "the management library ran out of memory",
    21: "there is nothing yet that could be told (no data)",
    22: "virtual GPUs don't tell it while ECC is on",
    23: "the device lacks resources for it",
    24: "the device doesn't have such a frequency",
    25: "driver and management library disagree on the question's version",
    26: "the driver has given this question up (deprecated)",
    27: "the device isn't ready",
    28: "there is no such GPU",
    29: "the device is in a state that doesn't allow it (invalid state)",
    30: "the device can't be reset in this way",
    999: "the driver gives no reason (unknown error)",
}
"""By ``nvmlReturn_t``."""

SESSION_LOST = frozenset({1, 9, 15, 16, 18})
"""Errors after which the driver may have been restarted: nothing that was known before holds."""

FOR_GOOD = frozenset({NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND, MISMATCHED_ARGUMENT, 26})
"""Errors that the same question will meet again."""


def code_of(error: Exception) -> int | None:
    """The library's number of an error; ``None`` where it has none."""
    value = getattr(error, "value", None)
    return value if isinstance(value, int) else None


def why(error: Exception) -> str:
    """An error of the library in words."""
    code = code_of(error)
    if code is None:
        return str(error) or type(error).__name__
    return WORDS.get(code, f"NVIDIA's management library answers with error {code}")
