"""What a model's answers are judged by: names, which way is better, which task they fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Task = Literal["classification", "regression", "text-to-text", "language-modelling"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric.

    Args:
        name: as suites and records have it.
        tasks: that it fits.
        higher_is_better: false where less is better.
        share: shown as a percentage. Correlations are shown times 100, as GLUE does.
        lowest, highest: the least and the most that it can be.
    """

    name: str
    tasks: tuple[Task, ...]
    higher_is_better: bool = True
    share: bool = True
    lowest: float = 0.0
    highest: float = 1.0

    def nearest_possible(self, value: float) -> float:
        """The value, or the end of what the metric can be where it lies beyond; NaN stays what it is.

        >>> METRICS["matthews"].nearest_possible(-1.2)
        -1.0
        """
        if value < self.lowest:
            return self.lowest
        return self.highest if value > self.highest else value

    def impossible(self, value: float) -> tuple[str, str] | None:
        """Why the metric can never have a value, and what would be right; ``None`` if it can.

        >>> METRICS["f1"].impossible(88.0)
        ('f1 is at most 1', 'a share: 0.88')
        """
        possible = self.nearest_possible(value)
        if value == possible:
            return None
        end = f"{'at most' if value > possible else 'at least'} {possible:g}"
        is_percentage = self.share and self.nearest_possible(value / 100) == value / 100
        return f"{self.name} is {end}", f"a share: {value / 100:g}" if is_percentage else end


_CLASSES: tuple[Task, ...] = ("classification", "text-to-text")

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric(name="accuracy", tasks=_CLASSES),
            Metric(name="f1", tasks=_CLASSES),
            Metric(name="macro_f1", tasks=_CLASSES),
            Metric(name="matthews", tasks=_CLASSES, lowest=-1.0),
            Metric(name="exact_match", tasks=("text-to-text",)),
            Metric(name="pearson", tasks=("regression",), lowest=-1.0),
            Metric(name="spearman", tasks=("regression",), lowest=-1.0),
            Metric(name="pearson_spearman", tasks=("regression",), lowest=-1.0),
            Metric(name="mse", tasks=("regression",), higher_is_better=False, share=False, highest=math.inf),
            Metric(
                name="perplexity",
                tasks=("language-modelling",),
                higher_is_better=False,
                share=False,
                lowest=1.0,
                highest=math.inf,
            ),
        )
    }
)
"""By name. ``f1`` is of class 1, as GLUE's for MRPC and QQP; ``pearson_spearman`` is STS-B's mean of both."""

DEFAULT_METRICS: Mapping[Task, tuple[str, ...]] = MappingProxyType(
    {
        "classification": ("accuracy",),
        "regression": ("pearson_spearman", "pearson", "spearman"),
        "text-to-text": ("accuracy", "exact_match"),
        "language-modelling": ("perplexity",),
    }
)
"""What a task is judged by unless the suite says otherwise; the first decides."""
