"""The columns of a leaderboard that say how good the answers are, and what it took to get there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from peprof.reports.cells import NOISE_MARK, NOTHING, Cell, Column
from peprof.reports.formats import human_energy, human_metric, human_seconds, metric_header, signed
from peprof.results.comparison import Leaderboard
from peprof.results.progress_curves import Reached
from peprof.results.rows import Row
from peprof.results.scores import Score
from peprof.suite.metrics import METRICS, Metric

NOT_REACHED = "not reached"
NOT_EVALUATED = "no evaluation"


def score_cell(row: Row, score: Score | None) -> Cell:
    """Value and the half of its interval, marked where it is within noise of the best."""
    if score is None:
        return NOTHING
    metric = score.metric
    mark = NOISE_MARK if row.within_noise and metric is row.metric else ""
    parts = [mark + human_metric(metric, score.value)]
    if score.interval is not None:
        # The interval is not symmetric: its longer side is the honest half.
        half = max(score.interval.high - score.value, score.value - score.interval.low)
        parts.append(f"±{human_metric(metric, half)}")
    return Cell(parts=tuple(parts), best=metric.name in row.best)


def _of_accuracy(row: Row) -> dict[str, object]:
    score = row.accuracy
    interval = score.interval if score else None
    return {
        "accuracy": score.value if score else None,
        "accuracy_low": interval.low if interval else None,
        "accuracy_high": interval.high if interval else None,
        "validation_total": row.score.total if row.score else None,
        "within_noise_of_best": row.within_noise if row.score else None,
        "on_pareto_front": row.on_front,
    }


def _of_metric(row: Row) -> dict[str, object]:
    score = row.score
    interval = score.interval if score else None
    return {
        "metric": row.metric.name,
        "metric_value": score.value if score else None,
        "metric_low": interval.low if interval else None,
        "metric_high": interval.high if interval else None,
        "metric_interval_covers": score.covered if score else None,
        "metric_by_seed": {str(seed): value for seed, value in score.by_seed.items()} if score else {},
        "within_noise_of_best": row.within_noise if row.score else None,
        "within_noise_of_next_better": row.next_within_noise,
    }


def _other(metric: Metric) -> Column:
    """A metric that may be computed beside the deciding one."""

    def value(row: Row) -> float | None:
        score = row.scores.get(metric.name)
        return score.value if score else None

    return Column(
        key=metric.name,
        header=metric_header(metric),
        importance=None,
        cell=lambda row, _: score_cell(row, row.scores.get(metric.name)),
        raw=lambda row: {metric.name: value(row)},
        order=value,
    )


def _written(key: str, header: Sequence[str], share: Callable[[Row], float | None]) -> Column:
    """A column of a share of the answers that a text-to-text task writes."""

    def cell(row: Row, _board: Leaderboard) -> Cell:
        found = share(row)
        return NOTHING if found is None else Cell(parts=(f"{100 * found:.1f}",))

    return Column(
        key=key,
        header=tuple(header),
        importance=None,
        cell=cell,
        raw=lambda row: {key: share(row)},
        order=share,
    )


def _difference_cell(row: Row, board: Leaderboard) -> Cell:
    against = row.against
    if against is None:
        return Cell(parts=("reference",), tone="missing") if row.name == board.reference else NOTHING
    parts = [signed(human_metric(row.metric, abs(against.value)), against.value)]
    if against.tested is None or against.adjusted_p is None:
        return Cell(parts=(*parts, "", "not tested"))
    interval = against.tested.interval
    low, high = (signed(human_metric(row.metric, abs(end)), end) for end in (interval.low, interval.high))
    return Cell(parts=(*parts, f"[{low}, {high}]", _p_words(against.adjusted_p)))


def _p_words(p_value: float) -> str:
    """``p 0.032``, ``p <0.001``."""
    return "p <0.001" if p_value < 0.0005 else f"p {p_value:.3f}"


def _difference_raw(row: Row) -> dict[str, object]:
    against = row.against
    tested = against.tested if against else None
    return {
        "difference": against.value if against else None,
        "difference_low": tested.interval.low if tested else None,
        "difference_high": tested.interval.high if tested else None,
        "difference_p": tested.p_value if tested else None,
        "difference_p_holm": against.adjusted_p if against else None,
        "difference_test": tested.test if tested else None,
        "difference_seeds": against.seeds if against else None,
        "difference_untested_because": against.untested_because if against else None,
    }


def _to_target(
    key: str,
    field: str,
    header: Sequence[str],
    cost: Callable[[Reached], float | None],
    show: Callable[[float], str],
    *,
    wanted: bool = False,
) -> Column:
    """What was spent until the target was reached, median over the seeds, and how many reached it."""

    def value(row: Row) -> float | None:
        return cost(row.reached) if row.reached else None

    def cell(row: Row, _board: Leaderboard) -> Cell:
        reached = row.reached
        if reached is None:
            return NOTHING
        number = cost(reached)
        count = f"{reached.reached} of {reached.seeds}" if reached.reached < reached.seeds else ""
        if number is not None:
            return Cell(parts=(show(number), count) if count else (show(number),))
        if reached.reached == reached.seeds:
            return NOTHING  # reached, but nobody counted what it took
        return Cell(parts=(NOT_REACHED, count) if reached.reached else (NOT_REACHED,))

    def raw(row: Row) -> dict[str, object]:
        reached = row.reached
        return {
            field: value(row),
            "target": reached.target if reached else None,
            "target_reached_seeds": reached.reached if reached else None,
            "target_seeds": reached.seeds if reached else None,
        }

    def order(row: Row) -> float | None:
        number = value(row)
        return math.inf if number is None and row.reached else number

    return Column(
        key=key,
        header=tuple(header),
        importance=45 if wanted else None,
        cell=cell,
        raw=raw,
        order=order,
        wanted=(lambda board: board.target is not None) if wanted else None,
    )


def _within_cell(row: Row, board: Leaderboard) -> Cell:
    if row.within is None:
        return NOTHING
    if row.within.value is None:
        unspent = board.budget is not None and board.budget.axis != "joules"
        return Cell(parts=(NOT_EVALUATED,)) if unspent else NOTHING
    return Cell(parts=(human_metric(row.metric, row.within.value),))


def _within_raw(row: Row) -> dict[str, object]:
    found = row.within
    return {
        "within_value": found.value if found else None,
        "within_amount": found.budget.amount if found else None,
        "within_axis": found.budget.axis if found else None,
    }


def _within_header(board: Leaderboard) -> tuple[str, ...]:
    name = " ".join(metric_header(board.metric))
    return (name, f"within {board.budget.words}") if board.budget else WITHIN.header


def _gain(row: Row) -> float | None:
    return row.score.value if row.score else None


ACCURACY = Column(
    key="accuracy",
    header=("accuracy", "%"),
    importance=90,
    cell=lambda row, _: score_cell(row, row.accuracy),
    raw=_of_accuracy,
    order=lambda row: row.accuracy.value if row.accuracy else None,
    wanted=lambda board: board.metric.name == "accuracy",
)

METRIC = Column(
    key="metric",
    header=("metric",),
    importance=90,
    cell=lambda row, _: score_cell(row, row.score),
    raw=_of_metric,
    order=_gain,
    wanted=lambda board: board.metric.name != "accuracy",
    header_of=lambda board: metric_header(board.metric),
)

DIFFERENCE = Column(
    key="difference",
    header=("difference",),
    importance=85,
    cell=_difference_cell,
    raw=_difference_raw,
    order=lambda row: row.against.value if row.against else None,
    wanted=lambda board: board.reference_asked and board.reference is not None,
    header_of=lambda board: ("difference to", board.reference) if board.reference else ("difference",),
)

TO_TARGET = (
    _to_target(
        "time_to_target",
        "time_to_target_s",
        ("time to", "target"),
        lambda reached: reached.seconds,
        human_seconds,
        wanted=True,
    ),
    _to_target(
        "steps_to_target",
        "steps_to_target",
        ("steps to", "target"),
        lambda reached: reached.steps,
        lambda steps: f"{steps:,.0f}",
    ),
    _to_target(
        "energy_to_target",
        "energy_to_target_j",
        ("energy to", "target"),
        lambda reached: reached.joules,
        human_energy,
    ),
)

WITHIN = Column(
    key="within",
    header=("metric", "within"),
    importance=47,
    cell=_within_cell,
    raw=_within_raw,
    order=lambda row: row.within.value if row.within else None,
    wanted=lambda board: board.budget is not None,
    header_of=_within_header,
)

#: Shown on demand only.
OTHERS = (
    _written("exact_match", ("exact", "match %"), lambda row: row.exact_match),
    _written("invalid", ("invalid", "answers %"), lambda row: row.invalid),
    *(_other(metric) for name, metric in METRICS.items() if name not in ("accuracy", "exact_match")),
)
