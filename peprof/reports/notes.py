"""What a reader must know beside a table, in sentences: conditions, reasons, doubts and failures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peprof.reports.columns import failure_words
from peprof.reports.formats import human_percent, signed
from peprof.reports.listing import by_value, listed
from peprof.reports.predicted_notes import predicted_notes
from peprof.reports.score_notes import score_notes
from peprof.results.comparison import Leaderboard
from peprof.results.conditions import Difference
from peprof.results.figures import NOTABLE_DRIFT, WIDE_SPREAD
from peprof.results.rows import Row
from peprof.results.statistics import OUTLIER_THRESHOLD

SEPARATOR = " · "


def heading(board: Leaderboard, number: int, count: int) -> str:
    """The title of a table, with its number where there are several."""
    parts = [f"Table {number} of {count}"] if count > 1 else []
    if board.group:
        parts.append(board.group)
    return ": ".join([", ".join(parts), board.title]) if parts else board.title


def main_conditions(board: Leaderboard) -> list[str]:
    """Under which conditions the rows were measured: those that a reader asks for first."""
    known = board.conditions
    device = known.get("device name") or known["device"]
    if "threads" in known:
        device += ", 1 thread" if known["threads"] == "1" else f", {known['threads']} threads"
    parts = [
        f"batch {known['batch size']} × {known['max length']} tokens",
        task if (task := known.get("task", "classification")) != "classification" else None,
        known["dtype"],
        known.get("attention kernel") or known["attention"],
        known.get("geometry"),
        known.get("training"),
        device,
        f"torch {known['torch']}" if "torch" in known else None,
    ]
    return [part for part in parts if part]


def reason(board: Leaderboard) -> str | None:
    """Why the rows don't stand in the first table; ``None`` where nothing but the group differs."""
    if not board.differences:
        return None
    return f"Not comparable with table 1: {'; '.join(map(_difference, board.differences))}."


def _difference(difference: Difference) -> str:
    return f"{difference.condition} {difference.here} (table 1: {difference.first})"


def alerts(board: Leaderboard) -> list[str]:
    """What turns a table into something other than it seems: said loudly, before it."""
    found = [
        f"OFFLINE: {reason.rstrip('.')}. The suite's [offline] settings were used instead."
        for reason in board.offline_reasons
    ]
    if board.synthetic_weights and board.conditions["weights"] == "random":
        found.append("Random weights: memory and time are those of the real geometry, accuracy says nothing.")
    return found


def footnotes(board: Leaderboard, *, shown: Sequence[str]) -> list[str]:
    """What a reader must know of the values, most important first.

    Args:
        board: the table.
        shown: keys of the columns that are shown.
    """
    return [
        *score_notes(board, shown=shown),
        *_synthetic_notes(board),
        *(_ratio_notes(board) if "memory" in shown or "step" in shown else []),
        *(_run_peak_notes(board) if "run_peak" in shown else []),
        *predicted_notes(board, shown=shown),
        *_step_notes(board),
        *_warnings(board.rows),
    ]


def _ratio_notes(board: Leaderboard) -> list[str]:
    if any(row.memory_ratio is not None or row.step_ratio is not None for row in board.rows):
        return [f"Ratios (x) are to {board.reference if board.reference_asked else 'full fine-tuning'}."]
    missing = "the method asked for" if board.reference_asked else "full fine-tuning"
    return [f"No ratios: {missing} was not measured here."]


def _run_peak_notes(board: Leaderboard) -> list[str]:
    if any(row.run_peak_source == "process_rss" for row in board.rows):
        return [
            "A whole run's peak is its process's resident memory, with the interpreter and all libraries."
        ]
    return []


def _synthetic_notes(board: Leaderboard) -> list[str]:
    things = []
    if board.synthetic_weights and board.conditions["weights"] != "random":
        things.append("the backbone is pre-trained on generated text")
    if board.synthetic_data:
        things.append("the data is generated")
    return [f"Synthetic: {' and '.join(things)}; rankings need not hold on real data."] if things else []


def _step_notes(board: Leaderboard) -> list[str]:
    measured = [row for row in board.rows if row.measured_steps is not None]
    if not measured:
        return []
    steps = by_value(measured, lambda row: row.measured_steps or 0)
    cut = any(row.stopped_by_time for row in measured)
    rounds = by_value(measured, lambda row: row.rounds)
    notes = [
        f"Step times are medians of {steps} measured steps"
        f"{f' in {rounds} rounds, methods in turns' if rounds != '1' else ''}"
        f"{'; max_seconds cut some short' if cut else ''}{_reach(measured)}."
    ]
    strange = [f"{row.name} {row.outlier_steps}" for row in measured if row.outlier_steps]
    if strange:
        notes.append(f"Outlying steps (modified z-score above {OUTLIER_THRESHOLD}): {listed(strange)}.")
    slow = [row.name for row in measured if row.first_step_slow]
    if slow:
        notes.append(f"The first measured step is slow, warm-up may be too short: {listed(slow)}.")
    return [*notes, *_steadiness_notes(measured)]


def _reach(rows: Sequence[Row]) -> str:
    """How far the widest interval of a median step reaches, and whose it is."""
    reaches = [
        (max(row.step_interval.high - row.step.median, row.step.median - row.step_interval.low), row)
        for row in rows
        if row.step_interval is not None and row.step is not None
    ]
    shares = [(reach / row.step.median, row.name) for reach, row in reaches if row.step is not None]
    share, name = max(shares, key=lambda one: one[0], default=(0.0, ""))
    if not share:
        return ""
    return f"; 95 % intervals reach ±{human_percent(share)} %{f' ({name})' if len(rows) > 1 else ''}"


def _steadiness_notes(rows: Sequence[Row]) -> list[str]:
    """Why step times may not be what they seem."""
    notes = []
    unsteady = [f"{row.name} ({_unsteady_words(row)})" for row in rows if row.unsteady]
    if unsteady:
        notes.append(f"Step times are unsteady: {listed(unsteady)}.")
    cold = [row.name for row in rows if row.warmed_up is False]
    if cold:
        notes.append(f"Steps didn't take equally long yet when warm-up ended: {listed(cold)}.")
    bound = [row.name for row in rows if row.launch_bound]
    if bound:
        notes.append(
            f"Launch-bound: the host takes as long to queue a step as the device to do it: {listed(bound)}. "
            "Larger batches or a faster host would make the device do more, a faster device would not."
        )
    return notes


def _unsteady_words(row: Row) -> str:
    parts = []
    if row.drift is not None and abs(row.drift) > NOTABLE_DRIFT:
        parts.append(f"{signed(human_percent(abs(row.drift)), row.drift)} % from the first third to the last")
    if row.spread is not None and row.spread > WIDE_SPREAD:
        parts.append(f"quartiles {human_percent(row.spread)} % apart")
    return ", ".join(parts)


def _warnings(rows: Iterable[Row]) -> list[str]:
    names: dict[str, list[str]] = {}
    for row in rows:
        for warning in row.warnings:
            names.setdefault(warning, []).append(row.name)
    return [f"{listed(who)}: {warning}" for warning, who in names.items()]


def failures(board: Leaderboard) -> list[str]:
    """How and why runs failed, one line for all seeds of a row that failed alike."""
    seeds: dict[tuple[str, str], list[int]] = {}
    for row in board.rows:
        for outcome in row.failures:
            words = failure_words(outcome.status, outcome.failure)
            seeds.setdefault((row.name, words), []).append(outcome.seed)
    return [
        f"{name}, {'seed' if len(known) == 1 else 'seeds'} {', '.join(map(str, known))}: {words}"
        for (name, words), known in seeds.items()
    ]
