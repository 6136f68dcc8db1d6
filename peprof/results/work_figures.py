"""Work and inference of one record -> rates, utilisation and overheads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peprof.results.record import InferenceCostResult, InferenceResult, ShortResult, StepTimes, WorkResult
from peprof.results.statistics import median


@dataclass(frozen=True, kw_only=True)
class PhaseRate:
    """The work of one phase, and how fast it was done.

    Args:
        phase: its name; ``step`` for all of them.
        flops, bytes_accessed: as in the record.
        seconds: median of the timing pass; ``None`` where it wasn't timed.
        flops_per_s: achieved; ``None`` where it wasn't timed.
        mfu: that over the device's peak; ``None`` where the peak isn't known.
    """

    phase: str
    flops: int
    bytes_accessed: int
    seconds: float | None
    flops_per_s: float | None
    mfu: float | None


@dataclass(frozen=True, kw_only=True)
class WorkFigures:
    """The work of a step, with rates.

    Args:
        step: all phases together.
        phases: in order.
        peak_words: which peak utilisation is of, or why there is none.
        uncounted: operators that the counts lack.
    """

    step: PhaseRate
    phases: tuple[PhaseRate, ...]
    peak_words: str
    uncounted: tuple[str, ...]


def work_figures(short: ShortResult | None) -> WorkFigures | None:
    """Achieved rates by the timing pass's medians; ``None`` where the work wasn't counted.

    Model FLOPs utilisation is of what was executed, recomputed layers included.
    """
    if short is None or short.work is None:
        return None
    work, samples = short.work, _samples(short.times)
    seconds = {phase: median(known) for phase, known in samples.items() if known}
    return WorkFigures(
        step=step_rate(work, seconds.get("step")),
        phases=tuple(
            _rate(one.phase, one.flops, one.bytes_accessed, seconds.get(one.phase), work.peak_flops_per_s)
            for one in work.phases
        ),
        peak_words=work.peak_words,
        uncounted=work.uncounted,
    )


def step_rate(work: WorkResult, seconds: float | None) -> PhaseRate:
    """The work of a step, all phases together.

    Args:
        work: by phase.
        seconds: of a step; ``None`` where it wasn't timed.
    """
    flops = sum([one.flops for one in work.phases])
    bytes_accessed = sum([one.bytes_accessed for one in work.phases])
    return _rate("step", flops, bytes_accessed, seconds, work.peak_flops_per_s)


def _rate(
    phase: str, flops: int, bytes_accessed: int, seconds: float | None, peak: float | None
) -> PhaseRate:
    achieved = flops / seconds if seconds else None
    return PhaseRate(
        phase=phase,
        flops=flops,
        bytes_accessed=bytes_accessed,
        seconds=seconds,
        flops_per_s=achieved,
        mfu=achieved / peak if achieved is not None and peak else None,
    )


def _samples(times: StepTimes | None) -> Mapping[str, Sequence[float]]:
    """By phase; nothing of a timing pass without steps."""
    if times is None or not times.step_s:
        return {}
    return {
        "step": times.step_s,
        "forward": times.forward_s,
        "backward": times.backward_s,
        "clip": times.clip_s or (),
        "optimizer": times.optimizer_s,
    }


@dataclass(frozen=True, kw_only=True)
class InferenceFigures:
    """What one form of a model costs when it is used; medians, and ratios to the plain backbone beside it.

    Args:
        form: ``adapted``, ``merged`` or ``plain``.
        forward_s, prefill_s, token_s: seconds; ``None`` where nothing is generated.
        forward_ratio, token_ratio: to the plain backbone in the same rounds; ``None`` for that itself.
        peak_bytes: of a forward pass, with the model.
        cached: generates with a cache of keys and values.
    """

    form: str
    forward_s: float
    forward_ratio: float | None
    prefill_s: float | None
    token_s: float | None
    token_ratio: float | None
    peak_bytes: int | None
    cached: bool | None


def inference_figures(found: InferenceResult | None) -> tuple[InferenceFigures, ...]:
    """The plain backbone, the adapted model and the merged one, as far as they were measured."""
    if found is None:
        return ()
    figures = [_form("adapted", found.adapted)]
    if found.merged is not None:
        figures.append(_form("merged", found.merged))
    plain = found.adapted.plain
    if plain is None:
        return tuple(figures)
    first = InferenceFigures(
        form="plain",
        forward_s=median(plain.forward_s),
        forward_ratio=None,
        prefill_s=_median(plain.prefill_s),
        token_s=_median(plain.token_s),
        token_ratio=None,
        peak_bytes=found.plain_peak_bytes,
        cached=None,
    )
    return (first, *figures)


def _form(form: str, cost: InferenceCostResult) -> InferenceFigures:
    plain, times = cost.plain, cost.times
    return InferenceFigures(
        form=form,
        forward_s=median(times.forward_s),
        forward_ratio=_ratio(times.forward_s, plain.forward_s) if plain is not None else None,
        prefill_s=_median(times.prefill_s),
        token_s=_median(times.token_s),
        token_ratio=_ratio(times.token_s, plain.token_s) if plain is not None else None,
        peak_bytes=cost.peak_bytes,
        cached=cost.cached,
    )


def _median(samples: tuple[float, ...]) -> float | None:
    return median(samples) if samples else None


def _ratio(samples: tuple[float, ...], base: tuple[float, ...]) -> float | None:
    over = _median(base)
    return median(samples) / over if samples and over else None
