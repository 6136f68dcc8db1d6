"""Made histories: versions that are slower by a known share or not, with noise of known shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from peprof.results.record import RunRecord
from tests.results.factory import make_record, make_short

Shape = Callable[[np.random.Generator], list[float]]

STEPS = 30
NOISE = 0.02


def gaussian(generator: np.random.Generator, steps: int = STEPS, noise: float = NOISE) -> list[float]:
    return [float(value) for value in 1 + noise * generator.standard_normal(steps)]


def lognormal(generator: np.random.Generator, steps: int = STEPS, noise: float = NOISE) -> list[float]:
    return [float(value) for value in np.exp(noise * generator.standard_normal(steps))]


def with_outliers(generator: np.random.Generator, steps: int = STEPS, noise: float = NOISE) -> list[float]:
    """One step in twenty takes up to three times as long."""
    slow = np.where(generator.random(steps) < 0.05, 1 + 2 * generator.random(steps), 1)
    return [float(value) for value in (1 + noise * generator.standard_normal(steps)) * slow]


def dependent(
    generator: np.random.Generator, steps: int = STEPS, noise: float = NOISE, correlation: float = 0.3
) -> list[float]:
    """First-order autoregressive: each step is partly as the one before."""
    shocks = generator.standard_normal(steps)
    values = [float(shocks[0])]
    for shock in shocks[1:]:
        values.append(correlation * values[-1] + math.sqrt(1 - correlation**2) * float(shock))
    return [1 + noise * value for value in values]


def drifting(generator: np.random.Generator, steps: int = STEPS, noise: float = NOISE) -> list[float]:
    """Slower and slower, or faster and faster, by a few per cent from the first step to the last."""
    slope = generator.normal(0, noise)
    path = slope * np.linspace(-1, 1, steps)
    return [float(value) for value in 1 + noise * generator.standard_normal(steps) + path]


def made(
    steps: Sequence[float],
    *,
    slowdown: float = 0.0,
    seed: int = 0,
    label: str = "lora",
    peak_mib: float = 1024,
) -> RunRecord:
    """A run of the short phase: steps of 200 ms with this noise, slower by a share."""
    short = make_short(step_ms=[200 * (1 + slowdown) * value for value in steps], peak_mib=peak_mib)
    return make_record(label, seed=seed, short=short)
