"""``peprof compare`` answers at once, however much was measured: 10,000 records, in tables or as versions."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from peprof.results.record import PeakBreakdown, PhaseWorkResult, RunRecord, WorkResult
from peprof.results.store import RECORD_FILE, ResultStore
from tests.results.factory import MIB, make_full, make_record, make_short
from tests.results.trainings import bits

SECONDS = 2.0
QUICK_SECONDS = 2.5
"""Where only a few rounds are measured, beside other work: there only a gross fault fails."""
RESIDENT_BYTES = 500 * 10**6
RECORDS = 10_000
SUITES, METHODS, SEEDS = 10, 25, 20  # of each version
EXAMPLES = 872


def record(generator: random.Random, suite: int, method: int, seed: int) -> RunRecord:
    """As a run leaves one: 30 steps, a peak taken apart, the work of a step, each answer."""
    right = [generator.random() < 0.9 for _ in range(EXAMPLES)]
    short = make_short(step_ms=[generator.gauss(200, 4) for _ in range(30)]).model_copy(
        update={
            "breakdown": PeakBreakdown(
                peak_bytes=900 * MIB,
                peak_phase="backward",
                categories={f"category {place}": 60 * MIB for place in range(15)},
                owners={"backbone": 600 * MIB, "adapter": 200 * MIB, "head": 100 * MIB},
                saved_bytes=300 * MIB,
                uncounted_bytes=124 * MIB,
            ),
            "work": WorkResult(
                phases=tuple(
                    PhaseWorkResult(phase=phase, flops=10**12, bytes_accessed=10**9)
                    for phase in ("forward", "backward", "optimizer")
                )
            ),
        }
    )
    full = make_full(correct=sum(right), total=EXAMPLES, train_time_s=generator.gauss(600, 10))
    return make_record(
        f"m{method}",
        suite=f"suite{suite}",
        batch_size=8 * (suite + 1),
        seed=seed,
        short=short,
        full=full.model_copy(update={"correct_bits": bits(right)}),
    )


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("many")
    generator = random.Random(1)
    for version in ("base", "new"):
        for suite in range(SUITES):
            store = ResultStore(directory / version / f"suite{suite}")
            for method in range(METHODS):
                for seed in range(SEEDS):
                    _write(store, record(generator, suite, method, seed))
    return directory


def _write(store: ResultStore, written: RunRecord) -> None:
    """As ``store.write`` does, but without waiting for the disk ten thousand times."""
    place = store.run_directory(written.run_id)
    place.mkdir(parents=True)
    (place / RECORD_FILE).write_text(written.model_dump_json() + "\n")


MEASURED = """
import atexit, pathlib, sys

def tell(place=sys.argv.pop(1)):
    status = pathlib.Path("/proc/self/status").read_text()
    pathlib.Path(place).write_text(status.partition("VmHWM:")[2].split()[0])

atexit.register(tell)
from peprof.cli import main

main()
"""
"""The command, which says itself how large it became: what a parent is told counts its own pages too."""


def run(directory: Path, *arguments: str) -> tuple[float, int, int]:
    """Wall seconds, resident bytes at most, exit code."""
    told = directory / "resident"
    command = [sys.executable, "-c", MEASURED, str(told), *arguments]
    started = time.perf_counter()
    code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
    return time.perf_counter() - started, int(told.read_text()) * 1024, code


FORMS = {
    "leaderboards": ["--together"],
    "two versions": ["--fail-on", "step_time:50%,peak_allocated:2%,accuracy:50pt"],
    "two versions for a pull request": ["--format", "markdown", "--only-changed"],
}


@pytest.mark.parametrize("form", FORMS)
def test_ten_thousand_records_are_compared_at_once(
    benchmark: Any, versions: Path, form: str, quick: bool
) -> None:
    assert 2 * SUITES * METHODS * SEEDS == RECORDS
    found = []

    def compared() -> None:
        found.append(run(versions, "compare", str(versions / "base"), str(versions / "new"), *FORMS[form]))

    benchmark.pedantic(compared, rounds=3 if quick else 7, warmup_rounds=1)
    benchmark.extra_info["resident_bytes"] = max(resident for _, resident, _ in found)
    assert {code for _, _, code in found} == {0}
    assert max(resident for _, resident, _ in found) < RESIDENT_BYTES
    assert benchmark.stats.stats.median < (QUICK_SECONDS if quick else SECONDS)
