"""What a run's steps took, in a line for a terminal."""

from __future__ import annotations

from rich.console import Console

from peprof.breakdown.sizes import human_percent
from peprof.reports.formats import human_energy, human_seconds, significant
from peprof.reports.terminal import say
from peprof.results.record import EnergyResult


def print_energy(console: Console, energy: EnergyResult) -> None:
    """Prints the energy of a step, or why it isn't known.

    Args:
        console: where to.
        energy: of the record.
    """
    console.print()
    say(console, headline(energy), "bold" if energy.step_energy_j is not None else "dim")
    if energy.step_energy_j is not None:
        say(console, f"{_how_counted(energy)}.", "dim")


def headline(energy: EnergyResult) -> str:
    """``Energy of a step: 5.00 J, 312 mJ per sample, 200 W in the mean``."""
    if energy.step_energy_j is None or energy.sample_energy_j is None or energy.mean_power_w is None:
        why = energy.unavailable.get("energy_j", "nothing was recorded")
        return f"Energy of a step: unavailable; {why}."
    return (
        f"Energy of a step: {human_energy(energy.step_energy_j)}, "
        f"{human_energy(energy.sample_energy_j)} per sample, "
        f"{significant(energy.mean_power_w)} W in the mean"
    )


def _how_counted(energy: EnergyResult) -> str:
    words = f"The device's counter over {energy.steps} steps"
    if energy.seconds is not None:
        words += f" in {human_seconds(energy.seconds)}"
    if energy.counter_period_s is not None:
        words += f"; it moves every {human_seconds(energy.counter_period_s)}"
    if energy.integrated_j is not None and energy.energy_j:
        off = energy.integrated_j / energy.energy_j - 1
        same = abs(off) < 0.0005
        words += f"; integrated power tells {'the same' if same else _difference(off)}"
    return words


def _difference(off: float) -> str:
    return f"{human_percent(abs(off))} % {'more' if off > 0 else 'less'}"
