"""Numbers as people read them: three significant digits and a unit. Stored are bytes and seconds."""

from __future__ import annotations

from peprof.breakdown.sizes import human_bytes, human_percent, significant
from peprof.suite.metrics import Metric

__all__ = [
    "MISSING",
    "human_bytes",
    "human_clock",
    "human_count",
    "human_energy",
    "human_large",
    "human_metric",
    "human_percent",
    "human_ratio",
    "human_seconds",
    "metric_header",
    "metric_words",
    "signed",
    "significant",
]

#: Stands where nothing was measured.
MISSING = "–"

_CORRELATIONS = ("matthews", "pearson", "spearman", "pearson_spearman")
_ENERGY_UNITS = (("mJ", 1e-3), ("J", 1.0), ("kJ", 1e3), ("MJ", 1e6))
_LARGE_UNITS = (("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12), ("P", 1e15))
_COUNT_UNITS = ("", "K", "M", "B", "T")
_TIME_UNITS = ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h"))


def human_seconds(value: float) -> str:
    """Seconds in the unit that suits: ``850 µs``, ``123 ms``, ``1.23 s``, ``12.5 min``, ``3.20 h``."""
    size, unit = _TIME_UNITS[0]
    for next_size, next_unit in _TIME_UNITS[1:]:
        # compared as it would be printed, so that 999.7 ms is 1.00 s and not 1,000 ms
        if float(significant(value / size).replace(",", "")) < round(next_size / size):
            break
        size, unit = next_size, next_unit
    return f"{significant(value / size)} {unit}"


def human_count(value: int) -> str:
    """A count of parameters: ``768``, ``27.6K``, ``66.4M``, ``1.24B``."""
    if value < 1000:
        return str(value)
    power = 0
    scaled = float(value)
    while power < len(_COUNT_UNITS) - 1 and float(f"{scaled:.3g}") >= 1000:
        scaled /= 1000
        power += 1
    return significant(scaled) + _COUNT_UNITS[power]


def human_large(value: float) -> str:
    """A number that may be very large, with a prefix: ``850 M``, ``1.23 T``, ``4.50 P``."""
    if not value:
        return "0"
    unit, size = "", 1.0
    for next_unit, next_size in _LARGE_UNITS:
        # compared as it would be printed, so that 999.7 M is 1.00 G and not 1,000 M
        if float(significant(value / size).replace(",", "")) < 1000:
            break
        unit, size = f" {next_unit}", next_size
    return f"{significant(value / size)}{unit}"


def human_ratio(value: float) -> str:
    """A ratio beside its value: ``0.55x``, ``12.3x``."""
    return f"{value:.1f}x" if value >= 9.995 else f"{value:.2f}x"


def human_clock(seconds: float) -> str:
    """A duration as a clock shows it: ``0:42``, ``12:05``, ``1:02:05``."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def human_energy(joules: float) -> str:
    """Joules in the unit that suits: ``850 mJ``, ``12.5 J``, ``1.23 kJ``, ``3.60 MJ``."""
    unit, size = _ENERGY_UNITS[0]
    for next_unit, next_size in _ENERGY_UNITS[1:]:
        # compared as it would be printed, so that 999.7 J is 1.00 kJ and not 1,000 J
        if float(significant(joules / size).replace(",", "")) < 1000:
            break
        unit, size = next_unit, next_size
    return f"{significant(joules / size)} {unit}"


def human_metric(metric: Metric, value: float) -> str:
    """A metric's value: shares times 100 with one digit, ``90.6``; others with three digits, ``12.3``."""
    size = abs(value)
    if metric.share:
        magnitude = human_percent(size)
    else:  # an error may be far below 1
        magnitude = f"{size:.3g}" if size < 1 else significant(size)
    return signed(magnitude, value, plus=False)


def metric_words(metric: Metric, value: float) -> str:
    """A metric with its value: ``accuracy 90.6 %``, ``matthews 61.2``, ``perplexity 12.3``."""
    unit = " %" if metric.share and metric.name not in _CORRELATIONS else ""
    return f"{metric.name.replace('_', ' ')} {human_metric(metric, value)}{unit}"


def metric_header(metric: Metric) -> tuple[str, ...]:
    """A metric's name, and what its values are multiplied by: ``accuracy %``, ``pearson × 100``."""
    name = metric.name.replace("_", " ")
    if not metric.share:
        return (name,)
    return (name, "× 100" if metric.name in _CORRELATIONS else "%")


def signed(magnitude: str, value: float, *, plus: bool = True) -> str:
    """A written magnitude with the sign of its value; what was rounded to nothing has none."""
    if not magnitude.strip("0.,"):
        return magnitude
    return f"−{magnitude}" if value < 0 else f"+{magnitude}" if plus else magnitude
