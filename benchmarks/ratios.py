"""Ratios that benchmarks measure within one run, held to those that were recorded in ``baseline.json``.

    python -m benchmarks.ratios check RUN.json     # of pytest benchmarks --benchmark-json=RUN.json
    python -m benchmarks.ratios record             # on a quiet machine: measures all, and writes the baseline

Seconds depend on the machine and on what else it does; what one thing costs beside another, measured in turn,
does so much less, and bytes beside bytes don't at all. Lower is better in all of them. What benchmarks assert
themselves holds besides.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Literal

ROOT = Path(__file__).parents[1]
BASELINE = Path(__file__).with_name("baseline.json")

Mode = Literal["quick", "full"]
Kind = Literal["memory", "time", "process"]

TOLERANCES: dict[Kind, dict[Mode, float]] = {
    "memory": {"quick": 0.001, "full": 0.001},
    "time": {"quick": 0.35, "full": 0.10},
    "process": {"quick": 0.60, "full": 0.40},
}
"""By how much a ratio may be above its baseline. Bytes repeat themselves; steps are measured a few times in
quick mode, on machines that do other things too; whole processes start with the disk and everything."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """What a benchmark has measured.

    Args:
        name: what by what.
        value: lower is better.
        kind: what it is made of, which says how much noise there is.
        mode: in which it was measured; the modes measure different sizes.
    """

    name: str
    value: float
    kind: Kind
    mode: Mode


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A line of the baseline.

    Args:
        value: the median of the runs that were recorded.
        tolerance: share by which a value may be above; by kind at first, kept where somebody changed it.
    """

    value: float
    tolerance: float


Baseline = dict[str, dict[str, Recorded]]
"""Mode -> name -> what was recorded."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A ratio beside its baseline; either may be missing."""

    name: str
    value: float | None
    recorded: Recorded | None

    @property
    def word(self) -> str:
        """``WORSE`` and ``NOT MEASURED`` are faults; ``better`` and ``new`` wait to be recorded."""
        if self.recorded is None:
            return "new"
        if self.value is None:
            return "NOT MEASURED"
        if self.value > self.recorded.value * (1 + self.recorded.tolerance):
            return "WORSE"
        return "better" if self.value < self.recorded.value * (1 - self.recorded.tolerance) else "ok"

    @property
    def is_fault(self) -> bool:
        """Whether a change must not land with it."""
        return self.word.isupper()


class RatiosError(Exception):
    """Files that can't be used; the message says what to do."""


def ratios_in(run: Path) -> tuple[Ratio, ...]:
    """The ratios of a run.

    Args:
        run: written by ``--benchmark-json``.

    Raises:
        RatiosError: it can't be read, has none, or two of one name.
    """
    try:
        told = json.loads(run.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RatiosError(f"{run} is no file of pytest-benchmark: {error}") from error
    found = [Ratio(**entry) for one in told["benchmarks"] for entry in one["extra_info"].get("ratios", ())]
    names = [ratio.name for ratio in found]
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise RatiosError(f"two benchmarks measure a ratio of one name: {', '.join(double)}")
    if not found:
        raise RatiosError(f"{run} has no ratio: was it written by 'pytest benchmarks --benchmark-only'?")
    return tuple(found)


def load_baseline(path: Path) -> Baseline:
    """What was recorded.

    Raises:
        RatiosError: there is no such file, or it is damaged.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return {
            mode: {name: Recorded(**entry) for name, entry in told[mode].items()}
            for mode in ("quick", "full")
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RatiosError(
            f"{path} can't be used ({error!r}): write it with 'python -m benchmarks.ratios record'"
        ) from error


def compare(ratios: Iterable[Ratio], baseline: Baseline) -> tuple[Verdict, ...]:
    """Each ratio beside its baseline, and what the baseline has and the run lacks; faults first."""
    measured: dict[str, dict[str, Ratio]] = {}
    for ratio in ratios:
        measured.setdefault(ratio.mode, {})[ratio.name] = ratio
    verdicts = []
    for mode, found in measured.items():
        recorded = baseline.get(mode, {})
        for name in sorted(found.keys() | recorded.keys()):
            value = found[name].value if name in found else None
            verdicts.append(Verdict(name=name, value=value, recorded=recorded.get(name)))
    return tuple(sorted(verdicts, key=lambda verdict: not verdict.is_fault))


def table(verdicts: Sequence[Verdict]) -> str:
    """All verdicts, aligned."""
    heads = ("ratio", "measured", "baseline", "at most", "")
    rows = [heads, *(_row(verdict) for verdict in verdicts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in (0, 4) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _row(verdict: Verdict) -> tuple[str, str, str, str, str]:
    value, recorded = verdict.value, verdict.recorded
    most = None if recorded is None else recorded.value * (1 + recorded.tolerance)
    return (
        verdict.name,
        "–" if value is None else f"{value:.4f}",
        "–" if recorded is None else f"{recorded.value:.4f}",
        "–" if most is None else f"{most:.4f}",
        verdict.word,
    )


def updated(before: Baseline, runs: Iterable[Iterable[Ratio]], *, partial: bool = False) -> Baseline:
    """The baseline of the runs' medians; modes without a run stay as they were.

    Args:
        before: its tolerances are kept, since somebody may have chosen them; new ratios get their kind's.
        runs: of any mode.
        partial: the runs are of some benchmarks only: what they didn't measure stays.
    """
    values: dict[str, dict[str, list[Ratio]]] = {}
    for run in runs:
        for ratio in run:
            values.setdefault(ratio.mode, {}).setdefault(ratio.name, []).append(ratio)
    after = dict(before)
    for mode, by_name in values.items():
        after[mode] = dict(before.get(mode, {})) if partial else {}
        for name, ratios in sorted(by_name.items()):
            known = before.get(mode, {}).get(name)
            tolerance = TOLERANCES[ratios[0].kind][ratios[0].mode] if known is None else known.tolerance
            after[mode][name] = Recorded(value=median(r.value for r in ratios), tolerance=tolerance)
    return after


def write_baseline(path: Path, baseline: Baseline, conditions: Mapping[str, str]) -> None:
    """Writes the baseline so that a diff shows what has changed."""
    told: dict[str, Any] = {"recorded_with": dict(conditions)}
    for mode, entries in baseline.items():
        told[mode] = {
            name: {"value": round(entry.value, 5), "tolerance": entry.tolerance}
            for name, entry in entries.items()
        }
    path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def conditions() -> dict[str, str]:
    """What a reader of the baseline wants to know of where it comes from."""
    return {"machine": platform.machine(), "python": platform.python_version()} | {
        name: version(name) for name in ("torch", "transformers", "peft")
    }


def measure(mode: Mode, folder: Path, number: int) -> Path:
    """Runs all benchmarks.

    Raises:
        RatiosError: one of them failed.
    """
    file = folder / f"{mode}-{number}.json"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-only", "-q", "-p", "no:cacheprovider",
         f"--benchmark-json={file}"],
        cwd=ROOT,
        env={**os.environ, "PEPROF_BENCHMARK": mode},
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RatiosError(f"benchmarks failed in {mode} mode, see above; the baseline stays as it was")
    return file


def _check(run: Path, baseline: Path, *, partial: bool) -> int:
    verdicts = compare(ratios_in(run), load_baseline(baseline))
    if partial:
        verdicts = tuple(verdict for verdict in verdicts if verdict.value is not None)
    print(table(verdicts))
    faults = sum(verdict.is_fault for verdict in verdicts)
    waiting = sum(verdict.word in ("new", "better") for verdict in verdicts)
    if waiting:
        print(f"\n{waiting} to be recorded: 'python -m benchmarks.ratios record', on a quiet machine")
    if faults:
        print(f"\n{faults} of {len(verdicts)} ratios got worse, or weren't measured", file=sys.stderr)
    return int(faults > 0)


def _record(
    runs: Sequence[Path], baseline: Path, modes: Sequence[Mode], repeats: int, *, partial: bool
) -> int:
    before = load_baseline(baseline) if baseline.exists() else {"quick": {}, "full": {}}
    with tempfile.TemporaryDirectory() as folder:
        files = runs or [measure(m, Path(folder), n) for n in range(repeats) for m in modes]
        found = [ratios_in(file) for file in files]
    after = updated(before, found, partial=partial)
    write_baseline(baseline, after, conditions())
    for mode in dict.fromkeys(ratio.mode for run in found for ratio in run):
        print(f"\n{mode}: the medians beside what was recorded before")
        pairs = ((name, entry.value, before[mode].get(name)) for name, entry in after[mode].items())
        print(table([Verdict(name=name, value=value, recorded=old) for name, value, old in pairs]))
    print(f"\nwritten to {baseline}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 fine, 1 a ratio got worse, 2 files that can't be used."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ratios", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="compare a run with the baseline")
    check.add_argument("run", type=Path)
    record = commands.add_parser("record", help="write the baseline, of given runs or of new ones")
    record.add_argument("runs", type=Path, nargs="*")
    record.add_argument("--mode", choices=("quick", "full"), action="append", help="both, if not given")
    record.add_argument("--repeats", type=int, default=3, help="new runs in each mode, for their medians")
    for command in (check, record):
        command.add_argument("--baseline", type=Path, default=BASELINE)
        command.add_argument("--partial", action="store_true", help="the runs are of some benchmarks only")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "check":
            return _check(chosen.run, chosen.baseline, partial=chosen.partial)
        modes = chosen.mode or ("quick", "full")
        return _record(chosen.runs, chosen.baseline, modes, chosen.repeats, partial=chosen.partial)
    except RatiosError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2


def noted(ratio: Ratio) -> dict[str, Any]:
    """As it stands in a benchmark's ``extra_info``."""
    return asdict(ratio)


if __name__ == "__main__":
    sys.exit(main())
