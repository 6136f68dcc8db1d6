"""What a reader must know of the values that say how good answers are: how sure, and what was tested."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from peprof.reports.cells import FRONT_MARK, NOISE_MARK
from peprof.reports.formats import human_metric, human_percent
from peprof.reports.listing import by_value, listed
from peprof.results.comparison import Leaderboard
from peprof.results.paired import TestName
from peprof.results.rows import Row
from peprof.results.scores import Covered

_TO_TARGET = {"time_to_target", "steps_to_target", "energy_to_target"}
_TESTS: dict[TestName, str] = {
    "crossed": "paired over the same seeds and examples",
    "mcnemar": "by McNemar's exact test on the same examples (one seed: another might decide otherwise)",
    "seeds": "by a paired t test over seeds (the same examples: others might decide otherwise)",
}


def score_notes(board: Leaderboard, *, shown: Sequence[str]) -> list[str]:
    """What must be known of the columns that are shown, most important first."""
    known = [row for row in board.rows if row.score]
    notes: list[str] = []
    if "metric" in shown or board.metric.name in shown:
        notes += _value_notes(board, known) if known else [_unavailable(board)]
    if "difference" in shown:
        notes += _difference_notes(board)
    if _TO_TARGET & set(shown):
        notes += _target_notes(board)
    if "within" in shown:
        notes += _budget_notes(board)
    return notes


def name_of(board: Leaderboard) -> str:
    """The deciding metric in words: ``accuracy``, ``pearson spearman``."""
    return board.metric.name.replace("_", " ")


def _unavailable(board: Leaderboard) -> str:
    trained = "full" in board.conditions["phases"]
    why = "no training was finished" if trained else "the short phase doesn't train to the end"
    return f"{_capital(name_of(board))} is unavailable: {why}."


def _value_notes(board: Leaderboard, known: Sequence[Row]) -> list[str]:
    name = name_of(board)
    better = "better" if board.metric.higher_is_better else "less"
    notes = []
    if any(row.on_front for row in board.rows):
        notes.append(f"{FRONT_MARK} Pareto front: no other row has both less memory and {better} {name}.")
    seeds = by_value(known, lambda row: len(row.score.by_seed) if row.score else 0)
    mean = "" if seeds == "1" else f"{_capital(name)} is the mean of {seeds} seeds. "
    notes.append(f"{mean}{_interval_words(known)}")
    notes += _doubt_notes(board)
    if "accuracy" in board.metric.name:
        notes += _written_notes(known)
    return notes


def _interval_words(known: Sequence[Row]) -> str:
    """What ± holds; of rows that it holds something else of, by name."""
    names: dict[Covered | None, list[str]] = {}
    for row in known:
        if row.score:
            names.setdefault(row.score.covered, []).append(row.name)
    totals = sorted({row.score.total for row in known if row.score})
    rows = f"{' or '.join(f'{total:,}' for total in totals)} validation rows"
    share = known[0].metric.name in ("accuracy", "exact_match")
    words: dict[Covered | None, str] = {
        "examples": f"the 95 % Wilson interval at {rows}"
        if share
        else f"the 95 % interval from resampling {rows}",
        "seeds and examples": f"the 95 % interval over seeds and {rows}",
        "seeds": f"the 95 % interval over seeds alone, at {rows}",
    }
    if set(names) == {None}:
        return f"There are no intervals: nothing tells how sure values at {rows} are."
    common = max(names, key=lambda covered: (covered is not None, len(names[covered])))
    others = [
        f"; of {listed(who)} {words.get(covered, 'there is none')}"
        for covered, who in names.items()
        if covered != common
    ]
    return f"± is {words[common]}{''.join(others)}."


def _doubt_notes(board: Leaderboard) -> list[str]:
    """What the mark means, and what other order in the table is within noise."""
    doubts, name = board.doubts, name_of(board)
    notes = []
    ways = []
    if doubts.pairs:
        tests = " or ".join(_TESTS[test] for test in sorted(doubts.tests))
        pairs = "1 pair" if doubts.pairs == 1 else f"all {doubts.pairs} pairs"
        ways.append(f"tested {tests}, with Holm's correction over {pairs} of rows")
    if any(row.within_noise for row in board.rows):
        if doubts.pairs:
            ways += ["rows of unknown answers by whether intervals overlap"] if doubts.by_intervals else []
            notes.append(f"{NOISE_MARK} not shown to differ from the best {name}: {'; '.join(ways)}.")
        else:
            none = ", or there is none" if doubts.unknown else ""
            notes.append(f"{NOISE_MARK} within noise of the best {name}: the intervals overlap{none}.")
    elif ways:
        notes.append(f"No other row is within noise of the best {name}: {'; '.join(ways)}.")
    alike = [
        f"{row.name} from {row.next_within_noise}"
        for row in board.rows
        if row.next_within_noise is not None and not row.within_noise
    ]
    if alike:
        notes.append(f"Not shown to differ from the next better row either: {listed(alike)}.")
    if doubts.unknown and any(row.score and row.score.interval for row in board.rows):
        notes.append(f"Without an interval nothing tells rows from others: {listed(doubts.unknown)}.")
    return notes


def _written_notes(rows: Iterable[Row]) -> list[str]:
    """What a text-to-text task wrote when nobody chose among its first tokens."""
    written = [
        (row.name, row.exact_match, row.invalid)
        for row in rows
        if row.exact_match is not None and row.invalid is not None
    ]
    if not written:
        return []
    exact = [f"{name} {human_percent(match)}" for name, match, _ in written]
    strange = [f"{name} {human_percent(invalid)}" for name, _, invalid in written if invalid > 0]
    return [
        "Accuracy is by the first token, among the classes' words only. "
        f"Written greedily, exactly right (%): {listed(exact)}; "
        + (f"no class's word (%): {listed(strange)}." if strange else "every answer is a class's word.")
    ]


def _difference_notes(board: Leaderboard) -> list[str]:
    if board.reference is None:
        missing = "the method asked for" if board.reference_asked else "full fine-tuning"
        return [f"No differences: {missing} was not measured here."]
    against = [row.against for row in board.rows if row.against]
    tested = [one.tested for one in against if one.tested]
    notes = []
    if tested:
        ways = " or ".join(_TESTS[test] for test in sorted({one.test for one in tested}))
        rows = "1 row" if len(tested) == 1 else f"{len(tested)} rows"
        notes.append(
            f"Differences are to {board.reference}, over what both have in common; [ ] is each one's own "
            f"95 % interval, p is tested {ways}, with Holm's correction over {rows}."
        )
    reasons: dict[str, list[str]] = {}
    for row in board.rows:
        if row.against and row.against.untested_because:
            reasons.setdefault(row.against.untested_because, []).append(row.name)
    return notes + [f"Not tested: {listed(names)}: {reason}." for reason, names in reasons.items()]


def _target_notes(board: Leaderboard) -> list[str]:
    if board.target is None:
        return ["There is no target: set train.target in the suite, or give --target."]
    several = _any(board.rows, lambda row: row.reached is not None and row.reached.seeds > 1)
    return [
        f"Target: {name_of(board)} {human_metric(board.metric, board.target)}, at the first evaluation that "
        "was as good; of training steps alone"
        + ("; medians over seeds, those that never reached it counted last." if several else ".")
    ]


def _budget_notes(board: Leaderboard) -> list[str]:
    if board.budget is None:
        return ["There is no budget: give --within 60s, 500steps or 2kJ."]
    several = _any(board.rows, lambda row: row.within is not None and len(row.curves) > 1)
    found = "the best evaluation" + (" of each seed, their mean" if several else "")
    unspent = _any(board.rows, lambda row: row.within is not None and row.within.value is None)
    none = "; where a seed had none by then, nothing is known" if unspent else ""
    return [f"Within {board.budget.words} of training steps alone: {found}{none}."]


def _any(rows: Iterable[Row], holds: Callable[[Row], bool]) -> bool:
    return any(map(holds, rows))


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
