"""The categories of memory: their order in a stack and their colours, the same in every picture.

The colours are told apart with every common kind of colour blindness: those of Okabe and Ito (2008, "Color
Universal Design"), lighter or darker within a family, and greys and browns for what is small.
"""

from __future__ import annotations

from collections.abc import Iterable

UNATTRIBUTED = "unattributed"

_COLORS = {
    "parameters.frozen": "#0072b2",
    "parameters.trainable": "#56b4e9",
    "parameters.cast": "#a6d3f2",
    "buffers": "#a89a82",
    "inputs": "#6a4c93",
    "optimizer_state": "#cc79a7",
    "gradients": "#d55e00",
    "activations": "#009e73",
    "activations.recomputed": "#7fd1b9",
    "temporaries.forward": "#e69f00",
    "temporaries.backward": "#f2c14e",
    "temporaries.clip": "#c9b458",
    "temporaries.optimizer": "#f0e442",
    "temporaries": "#f7e1a0",
    "workspace": "#7b4b2a",
    "held_before": "#b79f8c",
    "rounding": "#c7c7c7",
    UNATTRIBUTED: "#6e6e6e",
}
_ORDER = {family: place for place, family in enumerate(_COLORS)}
_UNKNOWN = "#9467bd"


def color_of(category: str) -> str:
    """``#rrggbb``; of a category that nobody has heard of that of unknown ones."""
    return _COLORS.get(_family(category), _UNKNOWN)


def stacked(categories: Iterable[str]) -> list[str]:
    """From the bottom of a stack to its top: what stays, what backward needs, what passes, the rest."""
    return sorted(categories, key=lambda name: (_ORDER.get(_family(name), len(_ORDER)), name))


def _family(category: str) -> str:
    """``workspace:aten.mm`` -> ``workspace``; ``temporaries.other`` -> ``temporaries``."""
    if category in _COLORS:
        return category
    return category.partition(":")[0].partition(".")[0]
