"""What a run's step was predicted to need beside what was measured, for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from peprof.reports.formats import MISSING, human_bytes
from peprof.reports.predicted_columns import error_words
from peprof.reports.predicted_notes import AGAINST_WORDS, ran_out_words
from peprof.reports.terminal import INDENT, rule_of, said, say
from peprof.results.finding import FoundRun
from peprof.results.predicted import Figure, Held, by_phase, prediction_of
from peprof.results.record import EstimatedMemory

_FIGURES: tuple[tuple[Figure, str, str], ...] = (
    ("reserved", "reserved_bytes", "Reserved by the pool"),
    ("device", "device_bytes", "Used on the device"),
)


def print_predicted(console: Console, run: FoundRun) -> None:
    """Prints both by phase of the step, then what the pool and the device hold; nothing where none was asked.

    Args:
        console: where to.
        run: any.
    """
    record = run.record
    prediction = prediction_of(record) if record is not None else None
    if record is None or record.estimate is None or prediction is None:
        return
    console.print()
    say(console, "Predicted beside measured", "bold")
    if prediction.problem is not None:
        say(console, f"No prediction: {prediction.problem}.", "yellow")
        return
    table = Table(
        box=rule_of(console), show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold"
    )
    for head in ("phase", "predicted", "measured", "error"):
        table.add_column(head, justify="left" if head == "phase" else "right", no_wrap=True)
    for part in by_phase(record, run.memory):
        table.add_row(part.phase, *(said(console, cell) for cell in _cells(part.held)))
    table.add_row("whole step", *(said(console, cell) for cell in _cells(prediction.held["peak"])))
    console.print(Padding(table, (0, 0, 0, INDENT), expand=False))
    say(console, f"Predicted are {AGAINST_WORDS[prediction.against]}.", "dim")
    for figure, name, subject in _FIGURES:
        if figure in prediction.held:
            say(console, _sentence(subject, prediction.held[figure], record.estimate, name), "")
    if prediction.ran_out is not None:
        say(console, ran_out_words(run.name, prediction.ran_out), "yellow")
    for text in prediction.assumptions:
        say(console, f"Assumed: {text}.", "yellow")


def _cells(held: Held) -> tuple[str, str, str]:
    measured, error = held.measured_bytes, held.error
    return (
        human_bytes(held.predicted_bytes),
        MISSING if measured is None else human_bytes(measured),
        MISSING if error is None else f"{error_words(error)} %",
    )


def _sentence(subject: str, held: Held, estimate: EstimatedMemory, name: str) -> str:
    predicted, measured, error = _cells(held)
    words = f"{subject}: predicted {predicted} ({estimate.standing.get(name, 'assumed')})"
    return f"{words}, not measured." if measured == MISSING else f"{words}, measured {measured}, {error}."
