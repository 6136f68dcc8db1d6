"""GPUs by name: what people, torch and NVML call them, their architecture, and their memory.

The memory is what torch says a device has in all (``total_memory``), which is less than what is printed on
the box: up to 8 % are kept for error correction and by the driver. It differs by a few hundred MiB from one
driver to another, so each figure is the lowest that was found in messages of torch's from such devices.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches

from peprof.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A kind of GPU.

    Args:
        name: what people call it, with its memory where there are several.
        called: what its datasheet is headed, which several kinds may share.
        device_names: a pattern for what torch and NVML call it; the whole must fit: an H100 NVL isn't an
            H100, nor is a slice (MIG) of one, nor an A10G an A10.
        capability: compute capability, which names the architecture.
        total_gib: the memory that torch says it has, in 2^30 bytes.
    """

    name: str
    called: str
    device_names: str
    capability: tuple[int, int]
    total_gib: float

    @property
    def total_bytes(self) -> int:
        """The memory that torch says it has."""
        return round(self.total_gib * 2**30)


def _gpu(
    name: str, device_names: str, capability: tuple[int, int], total_gib: float, called: str | None = None
) -> Gpu:
    return Gpu(
        name=name,
        called=called or name,
        device_names=device_names,
        capability=capability,
        total_gib=total_gib,
    )


KNOWN = (
    _gpu("B200", r"NVIDIA B200", (10, 0), 178.35),
    _gpu("H200", r"NVIDIA H200", (9, 0), 139.72, "H200 SXM"),
    _gpu("H200 NVL", r"NVIDIA H200 NVL", (9, 0), 139.72),
    _gpu("H100", r"NVIDIA H100 80GB HBM3", (9, 0), 79.1, "H100 SXM"),
    _gpu("H100 PCIe", r"NVIDIA H100 PCIe", (9, 0), 79.1),
    _gpu("H100 NVL", r"NVIDIA H100 NVL", (9, 0), 93.0),
    _gpu("A100 80GB", r"(NVIDIA )?A100[- ](80GB PCIe|(SXM4|SXM|PCIE|PCIe)[- ]80GB)", (8, 0), 79.14, "A100"),
    _gpu("A100 40GB", r"(NVIDIA )?A100[- ](SXM4|SXM|PCIE|PCIe)([- ]40GB)?", (8, 0), 39.38, "A100"),
    _gpu("A10", r"NVIDIA A10", (8, 6), 22.05),
    _gpu("A10G", r"NVIDIA A10G", (8, 6), 22.05),
    _gpu("A40", r"NVIDIA A40", (8, 6), 44.35),
    _gpu("L4", r"NVIDIA L4", (8, 9), 22.03),
    _gpu("L40", r"NVIDIA L40", (8, 9), 44.4),
    _gpu("L40S", r"NVIDIA L40S", (8, 9), 44.39),
    _gpu("T4", r"(NVIDIA |Tesla )T4", (7, 5), 14.56),
    _gpu("V100 16GB", r"Tesla V100-SXM2-16GB", (7, 0), 15.77, "V100 SXM2"),
    _gpu("V100 32GB", r"Tesla V100-SXM2-32GB", (7, 0), 31.73, "V100 SXM2"),
    _gpu("V100 PCIe 16GB", r"Tesla V100-PCIE-16GB", (7, 0), 15.77, "V100 PCIe"),
    _gpu("V100 PCIe 32GB", r"Tesla V100-PCIE-32GB", (7, 0), 31.73, "V100 PCIe"),
    # Of these two others have the same name and another memory: 8 and 12 GB.
    _gpu("RTX 3060 12GB", r"NVIDIA GeForce RTX 3060", (8, 6), 11.63, "RTX 3060"),
    _gpu("RTX 3080 10GB", r"NVIDIA GeForce RTX 3080", (8, 6), 9.78, "RTX 3080"),
    _gpu("RTX 3090", r"NVIDIA GeForce RTX 3090", (8, 6), 23.56),
    _gpu("RTX 4060", r"NVIDIA GeForce RTX 4060", (8, 9), 7.6),
    _gpu("RTX 4070 Ti", r"NVIDIA GeForce RTX 4070 Ti", (8, 9), 11.73),
    _gpu("RTX 4080", r"NVIDIA GeForce RTX 4080", (8, 9), 15.67),
    _gpu("RTX 4090", r"NVIDIA GeForce RTX 4090", (8, 9), 23.52),
    _gpu("RTX 5090", r"NVIDIA GeForce RTX 5090", (12, 0), 31.36),
    _gpu("RTX A5000", r"NVIDIA RTX A5000", (8, 6), 23.54, "A5000"),
    _gpu("RTX A6000", r"NVIDIA RTX A6000", (8, 6), 47.4, "A6000"),
    _gpu("RTX 6000 Ada", r"NVIDIA RTX 6000 Ada Generation", (8, 9), 47.37),
)


def gpu_of_device(device_name: str) -> Gpu | None:
    """The kind of a device that torch or NVML has named; ``None`` where it isn't known.

    Example:
        >>> gpu_of_device("NVIDIA A100-SXM4-40GB").name
        'A100 40GB'
    """
    name = device_name.strip()
    return next((gpu for gpu in KNOWN if re.fullmatch(gpu.device_names, name)), None)


def gpu_named(name: str) -> Gpu:
    """The kind of GPU that somebody means.

    Args:
        name: as torch calls a device, or what people say: ``A100 40GB``, ``a100-40``, ``rtx4090``.

    Raises:
        UsageError: there is none, or there are several of that name.

    Example:
        >>> gpu_named("rtx4090").name
        'RTX 4090'
    """
    known = gpu_of_device(name)
    if known is not None:
        return known
    spoken = _spoken(name)
    found = [gpu for gpu in KNOWN if spoken in _spellings(gpu)]
    if len(found) == 1:
        return found[0]
    if found:
        which = " or ".join(f"'{gpu.name}'" for gpu in found)
        raise UsageError(f"there are several GPUs called '{name}'", hint=f"Say which: {which}.")
    spellings = {word: gpu.name for gpu in KNOWN for word in _spellings(gpu)}
    near = get_close_matches(spoken, list(spellings), n=1)
    meant = f". Did you mean '{spellings[near[0]]}'?" if near else ""
    raise UsageError(
        f"no GPU called '{name}' is known here{meant}",
        hint=f"Known are {', '.join(gpu.name for gpu in KNOWN)}. For another say --memory without --device, "
        "which peprof fit has.",
    )


def _spoken(name: str) -> str:
    """A name without what people leave out: makers, spaces, dashes, and the unit."""
    word = re.sub(r"[^a-z0-9]", "", name.lower())
    return re.sub(r"nvidia|geforce|tesla|rtx|gb$", "", word)


def _spellings(gpu: Gpu) -> set[str]:
    """What a name may be shortened to: also without its memory, and with it where there is only one."""
    without = re.sub(r" \d+GB$", "", gpu.name)
    words = {gpu.name, gpu.called, without}
    if _SIZES[without] == 1:
        words |= {
            f"{without} {size}"
            for size in (8, 12, 16, 24, 32, 48, 80)
            if gpu.total_gib <= size < 1.15 * gpu.total_gib
        }
    return {_spoken(word) for word in words}


_SIZES = Counter(re.sub(r" \d+GB$", "", gpu.name) for gpu in KNOWN)
