"""What is to be said beside a table of estimates: how its figures are known, and what was supposed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peprof.reports.formats import human_bytes
from peprof.reports.spec_columns import method_words
from peprof.results.estimates import DeviceMemory, Estimate

EXACT_NOTE = (
    "Exact: the bytes of all tensors, as the ledger counts them in a step without data on {kind} operators. "
    "Not in it: what an allocator rounds up and keeps, libraries' workspaces, the device's context."
)
FORMULA_NOTE = (
    "Except what bitsandbytes allocates for weights and optimizer states of 4 and 8 bits: by formula, from "
    "its source."
)
DEVICE_NOTE = (
    "Reserved: simulated, what the caching allocator would hold, libraries' workspaces included. Device: "
    "with a context of {context} as seen elsewhere, an assumption. Fits: into {total}, the least that torch "
    "was seen to say of such a GPU."
)
PUBLISHED_NOTE = (
    "Published: of full fine-tuning's memory in {sources}, under conditions of its own. Points: by how many "
    "percent of full fine-tuning's memory it is more here."
)
SET_OTHERWISE_NOTE = "What was published is of the suite as it is: here {keys} was set."


def device_of(estimates: Iterable[Estimate]) -> DeviceMemory | None:
    """The GPU that they are about; ``None`` for no known one."""
    return next((found.device for found in estimates if found.device is not None), None)


def device_words(device: DeviceMemory) -> str:
    """``T4 of 14.6 GiB``."""
    return f"{device.name} of {human_bytes(device.total_bytes)}"


def closing_notes(estimates: Sequence[Estimate]) -> list[str]:
    """How the figures of all tables are known; nothing where there are none."""
    told = [found for found in estimates if found.profile is not None]
    if not told:
        return []
    kind = "a GPU's" if told[0].kind == "cuda" else "the CPU's"
    notes = [" ".join([EXACT_NOTE.format(kind=kind), *formula_notes(told)])]
    device = device_of(found for found in told if found.device_bytes is not None)
    if device is not None:
        context, total = human_bytes(device.context_bytes), human_bytes(device.total_bytes)
        notes.append(DEVICE_NOTE.format(context=context, total=total))
    return notes


def formula_notes(estimates: Sequence[Estimate]) -> list[str]:
    """What of the figures isn't exact, in words; nothing where all are."""
    by_formula = any(found.profile is not None and not found.exact for found in estimates)
    return [FORMULA_NOTE] if by_formula else []


def drawn_words(estimates: Sequence[Estimate]) -> str:
    """What a picture of them shows: ``exact bytes of tensors, cuda``.

    Args:
        estimates: at least one.
    """
    exact = all(found.exact for found in estimates)
    device = device_of(estimates)
    if device is not None:
        counted = "" if exact else ", tensors in part by formula"
        return f"used on {device_words(device)}: pool simulated, context assumed{counted}"
    counted = "exact bytes" if exact else "bytes, in part by formula,"
    return f"{counted} of tensors, {estimates[0].kind}"


def warnings(group: Sequence[Estimate]) -> list[str]:
    """What must not be missed of a table: what doesn't fit, and what was supposed."""
    return [*_too_large(group), *_assumptions(group)]


def problems(group: Sequence[Estimate]) -> list[str]:
    """Why rows of a table have no figures."""
    return [f"{method_words(found.spec)}: {found.problem}" for found in group if found.problem is not None]


def published_notes(group: Sequence[Estimate]) -> list[str]:
    """Where the published shares stand; nothing where there are none."""
    known = [found.published for found in group if found.published is not None]
    sources = dict.fromkeys(item.said.source for item in known if item.share_of_full is not None)
    if not sources:
        return []
    keys = dict.fromkeys(key for item in known for key in item.set_otherwise)
    otherwise = [SET_OTHERWISE_NOTE.format(keys=", ".join(keys))] if keys else []
    return [PUBLISHED_NOTE.format(sources=" and ".join(sources)), *otherwise]


def _too_large(group: Sequence[Estimate]) -> list[str]:
    device = device_of(group)
    names = [method_words(found.spec) for found in group if found.fits is False]
    if device is None or not names:
        return []
    return [f"Too large for {device_words(device)}: {', '.join(names)}."]


def _assumptions(group: Sequence[Estimate]) -> list[str]:
    texts: dict[str, list[str]] = {}
    for found in group:
        for text in found.assumptions:
            texts.setdefault(text, []).append(method_words(found.spec))
    everywhere = sum(found.profile is not None for found in group)
    return [
        f"Assumed: {text}." if len(labels) == everywhere else f"Assumed for {', '.join(labels)}: {text}."
        for text, labels in texts.items()
    ]
