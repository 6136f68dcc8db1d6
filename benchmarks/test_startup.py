"""Commands that need no torch must answer at once."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from peprof.results.store import ResultStore
from tests.results.factory import make_full, make_record, make_short

HELP_SECONDS = 0.3
COMPARE_SECONDS = 1.5
RECORDS = 1000


def peprof(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "peprof", *arguments], capture_output=True, text=True, check=True
    )


def imported(*arguments: str) -> set[str]:
    """Top-level packages that a command imports."""
    code = (
        "import sys, contextlib, io\n"
        "from peprof.cli import main\n"
        f"sys.argv = ['peprof', *{arguments!r}]\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n    main()\n"
        "print(' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def empty_python_s() -> float:
    """Seconds in which Python starts and ends, the median of several: what answers can't be faster than."""
    taken = []
    for _ in range(7):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        taken.append(time.perf_counter() - begin)
    return median(taken)


def test_help_answers_at_once(benchmark: Any, note_ratio: Any) -> None:
    assert "torch" not in imported("--help")
    benchmark.pedantic(peprof, args=("--help",), rounds=7, warmup_rounds=1)
    note_ratio("peprof --help by an empty Python", benchmark.stats.stats.median / empty_python_s(), "process")
    assert benchmark.stats.stats.median < HELP_SECONDS


@pytest.fixture(scope="module")
def thousand_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("many")
    for suite in range(4):
        store = ResultStore(directory / f"suite{suite}")
        for index in range(RECORDS // 4):
            values = {"suite": f"suite{suite}", "label": f"m{index % 25}", "seed": index // 25}
            store.write(make_record(short=make_short(step_ms=[200.0] * 30), full=make_full(), **values))
    return directory


def test_compare_shows_a_thousand_records_at_once(
    benchmark: Any, thousand_records: Path, note_ratio: Any
) -> None:
    assert "torch" not in imported("compare", str(thousand_records))
    shown = benchmark.pedantic(peprof, args=("compare", str(thousand_records)), rounds=5, warmup_rounds=1)
    assert "m24" in shown.stdout
    note_ratio(
        "peprof compare of 1,000 by an empty Python",
        benchmark.stats.stats.median / empty_python_s(),
        "process",
    )
    assert benchmark.stats.stats.median < COMPARE_SECONDS
