"""``peprof fit`` on a device that is here: real training steps, in processes that may run out of memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from peprof.cli.showing import show_as
from peprof.errors import RunFailedError, SuiteError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peprof.estimation.fitting import Dimension
    from peprof.results.measured_fits import MeasuredFit
    from peprof.running.observing import Observer
    from peprof.running.tasks import Prepared
    from peprof.running.tries import Tries
    from peprof.suite.loading import LoadedSuite

NO_MEMORY = "how much memory of the processor's there may be isn't known"
NO_MEMORY_HINT = "Say it, for example with --memory 8GB."


def fit_measured(
    loaded: LoadedSuite,
    *,
    device: str,
    memory: str | None,
    dimensions: Sequence[Dimension],
    output_format: str,
    leave_out: bool = False,
) -> None:
    """Finds each method's borders on the device, and shows them; what was found also when interrupted.

    Args:
        loaded: the suite.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; of several GPUs the first.
        memory: that there may be, as the user wrote it; ``None`` for what a GPU has free.
        dimensions: that are looked for.
        output_format: of the result.
        leave_out: whether methods that can't be applied are left out, as nobody has named them.

    Raises:
        UsageError: it isn't known, or isn't there, how much memory there may be.
        PeprofError: the device isn't there, a source can't be reached, a method can't be applied.
        RunFailedError: a border couldn't be found, as steps failed for other reasons than memory.
    """
    from peprof.estimation.targets import read_bytes

    asked_bytes = read_bytes(memory) if memory is not None else None
    if device == "cpu" and asked_bytes is None:
        raise UsageError(NO_MEMORY, hint=NO_MEMORY_HINT)
    found: list[MeasuredFit] = []
    try:
        _find(loaded, device, asked_bytes, dimensions, found, leave_out=leave_out)
    except (KeyboardInterrupt, Exception) as stop:  # whatever it is, what was found isn't lost
        if any(fit.trials for fit in found):
            _show(found, output_format)
        if isinstance(stop, KeyboardInterrupt):
            stop.args = (_interrupted_words(found),)
        raise
    _show(found, output_format)
    _raise_failures(found)


def _find(
    loaded: LoadedSuite,
    device: str,
    asked_bytes: int | None,
    dimensions: Sequence[Dimension],
    found: list[MeasuredFit],
    *,
    leave_out: bool,
) -> None:
    """Fills ``found``, in which each border lies as far as it is known, whatever happens."""
    from rich.console import Console

    from peprof.reports.measured_fits import trial_words
    from peprof.reports.progress import RunProgress
    from peprof.running.tries import Tries

    with RunProgress(Console(stderr=True)) as progress:
        prepared = _prepared(_short_alone(loaded), device, progress, leave_out=leave_out)
        slot = prepared.slots[0]
        with Tries(slot, source=loaded.source, notice=progress.notice) as tries:
            memory_bytes = _memory(tries, asked_bytes, progress)

            from peprof.estimation.measuring import MeasuredFits, Place

            borders = MeasuredFits(
                prepared.specs,
                Place(
                    device=slot.device,
                    device_name=prepared.environment.device_name,
                    memory_bytes=memory_bytes,
                    limit="free" if asked_bytes is None else "asked",
                ),
                dimensions,
                source=loaded.source,
                try_run=tries,
                say=progress.progress,
                tell=lambda fit, trial: progress.tell(trial_words(fit, trial)),
            )
            try:
                borders.run()
            finally:
                found += borders.found


def _prepared(loaded: LoadedSuite, device: str, observer: Observer, *, leave_out: bool) -> Prepared:
    """All that can be checked before the first try.

    Raises:
        PeprofError: all that is wrong, together.
    """
    from peprof.running.runner import prepare_suite

    try:
        return prepare_suite(loaded, device=device, observer=observer)
    except SuiteError as error:
        keys = {fault.key for fault in error.faults}
        kept = tuple(m for m in loaded.suite.methods if f"methods ({m.label})" not in keys)
        if not leave_out or not kept or len(kept) + len(keys) > len(loaded.suite.methods):
            raise
        for fault in error.faults:
            observer.notice(f"left out: {fault}")
    suite = loaded.suite.model_copy(update={"methods": kept})
    return prepare_suite(replace(loaded, suite=suite), device=device, observer=observer)


def _short_alone(loaded: LoadedSuite) -> LoadedSuite:
    """Without full phases, which would have more prepared than is needed here."""
    short = {"phases": ("short",)}
    return replace(
        loaded,
        suite=loaded.suite.model_copy(update=short),
        offline=loaded.offline.model_copy(update=short) if loaded.offline is not None else None,
    )


def _memory(tries: Tries, asked_bytes: int | None, observer: Observer) -> int:
    """What there may be on the device.

    Raises:
        UsageError: on a CPU nobody said it, or a GPU has less.
    """
    from peprof.events import Progress
    from peprof.reports.formats import human_bytes

    name = tries.slot.device
    if name == "cpu":
        if asked_bytes is None:
            raise UsageError(NO_MEMORY, hint=NO_MEMORY_HINT)
        return asked_bytes
    observer.progress(Progress(phase=f"setup: asking {name} for its memory"))
    room = tries.room()
    assert room is not None  # as it is a GPU
    if asked_bytes is None:
        return room.free_bytes
    if asked_bytes > room.free_bytes:
        raise UsageError(
            f"--memory asks for {human_bytes(asked_bytes)}; of {name}'s {human_bytes(room.total_bytes)} "
            f"{human_bytes(room.free_bytes)} are free",
            hint="Ask for less, end what else is using the device (nvidia-smi), or leave --memory out.",
        )
    return asked_bytes


def _show(found: Sequence[MeasuredFit], output_format: str) -> None:
    from peprof.reports import measured_fits as reports

    show_as(
        output_format,
        found,
        table=reports.print_measured_fits,
        json=reports.measured_fits_as_json,
        csv=reports.measured_fits_as_csv,
        markdown=reports.measured_fits_as_markdown,
    )


def _interrupted_words(found: Sequence[MeasuredFit]) -> str:
    from peprof.reports.measured_fits import missing_words

    if not found:
        return "Interrupted before anything was tried."
    return f"Interrupted. Not known yet: {missing_words(found) or 'nothing'}."


def _raise_failures(found: Sequence[MeasuredFit]) -> None:
    """Not fitting is a finding; failing, dying and running out of time are not."""
    failed = [fit for fit in found if fit.unanswered is not None]
    if not failed:
        return
    lines = [f"{len(failed)} of {len(found)} borders couldn't be found"]
    for fit in failed:
        assert fit.unanswered is not None
        where = f"{fit.spec.method.label}, {fit.dimension} {fit.unanswered.size}"
        lines.append(f"  {where}: {fit.unanswered.phase}: {fit.unanswered.message}")
    raise RunFailedError("\n".join(lines), hint="peprof run, with this size, keeps the whole traceback.")
