"""What a reader must know of predicted memory: how far off it was, and whether a lack of it was foreseen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peprof.reports.formats import human_bytes, human_percent
from peprof.reports.listing import listed
from peprof.reports.predicted_columns import KEYS, error_words
from peprof.results.comparison import Leaderboard
from peprof.results.predicted import Against, Figure, Prediction, RanOut, RowPredictions, accuracy

AGAINST_WORDS: dict[Against, str] = {
    "ledger": "bytes of tensors, held against the ledger's count of the measured step",
    "allocator": "bytes of tensors, held against the allocator's peak, which has rounding and workspaces too",
}
_STANDING_WORDS = {
    "exact": "its tensors alone",
    "by formula": "its tensors alone, in part by formula",
    "simulated": "simulated",
    "assumed": "assumed in part",
}


def predicted_notes(board: Leaderboard, *, shown: Sequence[str]) -> list[str]:
    """How far off predictions were, where they are shown; how runs without enough memory were predicted.

    Args:
        board: the table.
        shown: keys of the columns that are shown.
    """
    rows = [(row.name, row.predicted) for row in board.rows if row.predicted is not None]
    notes: list[str] = []
    if set(KEYS) & set(shown):
        notes += [*_accuracy_notes(rows), *_assumptions(rows)]
    notes += [
        ran_out_words(f"{name}, seed {run.ran_out.seed},", run.ran_out)
        for name, row in rows
        for run in row.runs
        if run.ran_out is not None
    ]
    return [*notes, *_problems(rows)]


def _accuracy_notes(rows: Sequence[tuple[str, RowPredictions]]) -> list[str]:
    against = dict.fromkeys(run.against for _, row in rows for run in row.runs)
    subjects: tuple[tuple[Figure, str], ...] = (
        ("peak", f"Predicted peaks ({'; '.join(AGAINST_WORDS[one] for one in against)})"),
        ("reserved", "Predicted reserved memory (simulated, held against what the pool held)"),
    )
    notes = []
    for figure, subject in subjects:
        found = accuracy(rows, figure)
        if found is not None:
            runs = "1 run" if found.runs == 1 else f"{found.runs} runs"
            middle = error_words(found.median_error).lstrip("+")
            notes.append(
                f"{subject}: over {runs} the median absolute error is {middle} %, "
                f"the worst {error_words(found.worst)} % ({found.worst_name}); "
                f"{human_percent(found.too_low)} % of the runs needed more than was predicted."
            )
    return notes


def ran_out_words(name: str, ran_out: RanOut) -> str:
    """What a step was predicted to need where memory ran out, and whether that is more than there was.

    Args:
        name: of the run.
        ran_out: how it had been predicted.
    """
    need = f"{human_bytes(ran_out.need_bytes)} ({_STANDING_WORDS[ran_out.standing]})"
    words = f"{name} ran out of memory in '{ran_out.phase}'; a step was predicted to need {need}"
    if ran_out.there_bytes is None:
        return f"{words}, how much there was isn't known."
    verdict = "foreseen" if ran_out.foreseen else "not foreseen"
    return f"{words} of {human_bytes(ran_out.there_bytes)} that there was: {verdict}."


def _assumptions(rows: Sequence[tuple[str, RowPredictions]]) -> list[str]:
    return [
        f"Predicted for {listed(names)} on the assumption of {text}."
        for text, names in _names_by_text(rows, lambda run: run.assumptions).items()
    ]


def _problems(rows: Sequence[tuple[str, RowPredictions]]) -> list[str]:
    return [
        f"No prediction for {listed(names)}: {text}."
        for text, names in _names_by_text(rows, lambda run: (run.problem,) if run.problem else ()).items()
    ]


def _names_by_text(
    rows: Sequence[tuple[str, RowPredictions]], texts: Callable[[Prediction], Sequence[str]]
) -> dict[str, list[str]]:
    found: dict[str, dict[str, None]] = {}
    for name, row in rows:
        for run in row.runs:
            for text in texts(run):
                found.setdefault(text.rstrip("."), {})[name] = None
    return {text: list(names) for text, names in found.items()}
