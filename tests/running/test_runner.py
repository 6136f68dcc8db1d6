"""Whole suites, in real child processes."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from peprof.errors import SourceUnreachableError, SuiteError
from peprof.results.record import RunRecord
from peprof.results.store import ResultStore
from peprof.running.runner import Outcome, run_suite
from peprof.suite.loading import load_suite
from tests.running.helpers import Listener, write_suite


def run(path: Path, results: Path, listener: Listener | None = None, **options: object) -> Outcome:
    loaded = load_suite(path, overrides=options.pop("overrides", ()))  # type: ignore[arg-type]
    return run_suite(
        loaded,
        results=results,
        device="cpu",
        observer=listener or Listener(),
        **options,  # type: ignore[arg-type]
    )


def one(path: Path, results: Path) -> RunRecord:
    (record,) = run(path, results).records
    return record


@pytest.mark.slow
def test_a_run_ends_with_a_whole_record(tmp_path: Path) -> None:
    listener = Listener()
    outcome = run(write_suite(tmp_path, 'name = "lora"\nrank = 2'), tmp_path / "r", listener)
    (record,) = outcome.records
    assert record.status == "ok" and record.failure is None and record.attempt == 1
    assert record.parameters is not None
    # peprof/tiny: 4 layers of width 64; A and B of rank 2 at query and value.
    assert record.parameters.trainable_backbone == 4 * 2 * 2 * (64 + 64)
    assert record.parameters.trainable_head == (64 * 64 + 64) + (64 * 2 + 2)
    assert record.short is not None and record.short.times is not None and record.short.memory is not None
    assert len(record.short.times.step_s) == 3 == len(record.short.real_tokens)
    assert record.short.padded_tokens == 8 * 12
    assert all(0 < real <= 8 * 12 for real in record.short.real_tokens)
    phases = [phase.phase for phase in record.short.memory.phases]
    assert phases == ["forward", "backward", "clip", "optimizer"]
    assert record.short.memory.peak_allocated_bytes == max(
        phase.peak_bytes for phase in record.short.memory.phases
    )
    assert record.full is not None
    assert record.full.steps == 4 and record.full.epochs == 1.0
    assert record.full.evaluations[-1].total == 16
    # safetensors: 8 bytes of length, a header, then the numbers, 4 bytes each.
    payload = 4 * (record.parameters.trainable_backbone + record.parameters.trainable_head)
    assert payload < record.full.checkpoint_bytes < payload + 5000
    history = outcome.store.read_history(record.run_id)
    assert history is not None and len(history.loss) == 4
    assert sum(history.step_time_s) == pytest.approx(record.full.train_time_s)
    assert record.data is not None and record.data.synthetic
    assert record.model is not None and record.model.synthetic
    assert record.environment is not None and record.environment.device == "cpu"
    assert (outcome.store.run_directory(record.run_id) / "suite.toml").read_text().startswith("\nname")
    assert listener.planned == [(1, 0)] and listener.started == [record.run_id]
    assert {"setup", "short: timing", "short: memory", "full: training"} <= {e.phase for e in listener.events}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "step", "status", "phase", "kind", "words"),
    [
        ("raise", 0, "failed", "setup", "RuntimeError", "mat1 and mat2"),
        # One step warms up, three are timed, and two are the memory pass: the first of each is the hard one.
        ("raise", 2, "failed", "short: timing", "RuntimeError", "mat1 and mat2"),
        ("oom", 3, "oom", "short: timing", "RuntimeError", "allocate"),
        ("raise", 5, "failed", "short: memory", "RuntimeError", "mat1 and mat2"),
        ("full raise", 1, "failed", "full: training", "RuntimeError", "mat1 and mat2"),
        ("full nan", 2, "diverged", "full: training", "DivergedError", "became nan at step 2"),
        ("nan", 3, "diverged", "short: timing", "DivergedError", "nan at step 2 of 3 (short: timing)"),
        ("exit", 1, "failed", "short: warm-up", "Exit", "exit code 7"),
        ("kill", 1, "failed", "short: warm-up", "Signal", "killed by SIGKILL"),
    ],
)
def test_what_goes_wrong_is_a_row_with_phase_and_cause_and_the_suite_goes_on(
    tmp_path: Path, how: str, step: int, status: str, phase: str, kind: str, words: str
) -> None:
    phases = '"full"' if how.startswith("full ") else '"short"'
    how = how.removeprefix("full ")
    bad = f'name = "faulty"\nhow = "{how}"\nstep = {step}'
    path = write_suite(tmp_path, bad, 'name = "head"', phases=phases)
    broken, healthy = run(path, tmp_path / "r").records
    assert broken.status == status and broken.failure is not None
    assert broken.failure.kind == kind
    assert words in broken.failure.message
    assert broken.failure.phase == phase
    if how == "oom":
        assert broken.failure.requested_bytes == 2**55
    if how == "exit":
        assert broken.failure.exit_code == 7
        assert broken.failure.traceback is not None and "my last words" in broken.failure.traceback
    assert healthy.status == "ok", "one bad method never costs the others"


def test_a_training_that_fails_keeps_its_history_up_to_there(tmp_path: Path) -> None:
    path = write_suite(tmp_path, 'name = "faulty"\nhow = "nan"\nstep = 3', phases='"full"')
    outcome = run(path, tmp_path / "r")
    (record,) = outcome.records
    assert record.status == "diverged" and record.full is None
    history = outcome.store.read_history(record.run_id)
    assert history is not None
    assert [math.isfinite(loss) for loss in history.loss] == [True, True, False]
    assert len(history.learning_rate) == len(history.step_time_s) == 3


@pytest.mark.slow
@pytest.mark.parametrize("then", ["kill", "hang"])
def test_out_of_memory_stays_what_it_is_if_its_process_dies_while_the_cause_is_looked_into(
    then: str, tmp_path: Path
) -> None:
    bad = f'name = "faulty"\nhow = "oom-then-{then}"\nstep = 2'
    limits = "[limits]\nrun_seconds = 8.0" if then == "hang" else ""
    record = one(write_suite(tmp_path, bad, phases='"short"', limits=limits), tmp_path / "r")
    assert record.status == "oom" and record.failure is not None
    assert record.failure.requested_bytes == 2**55 and record.failure.memory is None


@pytest.mark.slow
def test_a_time_limit_ends_a_run_that_hangs(tmp_path: Path) -> None:
    bad = 'name = "faulty"\nhow = "hang"\nstep = 2'
    path = write_suite(tmp_path, bad, 'name = "head"', phases='"short"', limits="[limits]\nrun_seconds = 6")
    hung, healthy = run(path, tmp_path / "r").records
    assert hung.status == "timeout" and hung.failure is not None
    assert hung.failure.kind == "TimeLimit" and "6 s" in hung.failure.message
    assert 6 <= hung.total_time_s < 30
    assert healthy.status == "ok"


@pytest.mark.slow
def test_finished_runs_are_not_repeated_and_failed_ones_are_tried_again(tmp_path: Path) -> None:
    bad = 'name = "faulty"\nhow = "raise"'
    path = write_suite(tmp_path, 'name = "head"', bad, phases='"short"')
    first = run(path, tmp_path / "r")
    assert [record.status for record in first.records] == ["ok", "failed"]

    listener = Listener()
    second = run(path, tmp_path / "r", listener)
    assert listener.planned == [(2, 1)]
    assert second.records[0] == first.records[0]
    assert second.records[1].attempt == 2

    listener = Listener()
    third = run(path, tmp_path / "r", listener, retry=False)
    assert listener.planned == [(2, 2)] and listener.started == []
    assert third.records == second.records


@pytest.mark.slow
def test_one_seed_gives_one_result_whatever_was_measured_before(tmp_path: Path) -> None:
    path = write_suite(tmp_path, 'name = "lora"')
    both = one(path, tmp_path / "a")
    alone = one(write_suite(tmp_path, 'name = "lora"', phases='"full"'), tmp_path / "b")
    assert both.full is not None and alone.full is not None
    assert both.full.final_loss == alone.full.final_loss
    assert both.full.evaluations[-1].loss == alone.full.evaluations[-1].loss


def test_faults_that_only_a_child_can_see_stop_the_suite_before_its_first_run(tmp_path: Path) -> None:
    path = write_suite(
        tmp_path, 'name = "lora"\nrank = 0', 'name = "faulty"\nstep = -1', 'name = "head"', phases='"short"'
    )
    with pytest.raises(SuiteError) as error:
        run(path, tmp_path / "r")
    text = error.value.message
    assert "2 faults" in text and "rank=0: expected at least 1" in text and "step=-1" in text
    assert "t.toml" in text
    assert not ResultStore(tmp_path / "r" / "t").records()


def test_a_missing_column_in_real_data_stops_the_suite(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.tsv").write_text("text\tlabel\ngood\t1\nbad\t0\n")
    path = write_suite(tmp_path, 'name = "head"')
    with pytest.raises(SuiteError, match=r"data\.text: there is no column 'sentence'"):
        run(path, tmp_path / "r", overrides=(f"data.path={tmp_path}",))


def test_without_the_hub_and_without_an_overlay_it_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_suite(tmp_path, 'name = "head"')
    overrides = ("model.name=distilbert/distilbert-base-uncased", "model.weights=pretrained")
    with pytest.raises(SourceUnreachableError) as error:
        run(path, tmp_path / "r", overrides=overrides)
    assert "'distilbert/distilbert-base-uncased'" in error.value.message
    assert error.value.hint is not None and "model.weights=random" in error.value.hint
    assert error.value.exit_code == 2


def test_without_the_hub_the_overlay_applies_loudly_and_is_recorded(tmp_path: Path) -> None:
    path = write_suite(tmp_path, 'name = "head"')
    text = path.read_text().replace('name = "peprof/tiny"\nweights = "random"', 'name = "no-such/model-9"')
    path.write_text(
        text + '[offline]\nmodel.name = "peprof/tiny"\nmodel.weights = "random"\nphases = ["short"]\n'
    )
    listener = Listener()
    (record,) = run(path, tmp_path / "r", listener).records
    assert record.status == "ok" and record.full is None
    assert record.spec.offline_reason is not None and "'no-such/model-9'" in record.spec.offline_reason
    assert any(text.startswith("OFFLINE") and "no-such/model-9" in text for text in listener.notices)


@pytest.mark.slow
def test_the_parent_never_imports_torch(tmp_path: Path) -> None:
    path = write_suite(tmp_path, 'name = "head"', phases='"short"')
    code = f"""
import sys
from pathlib import Path
from peprof.suite.loading import load_suite
from peprof.running.runner import run_suite
from tests.running.helpers import Listener
if __name__ == "__main__":
    outcome = run_suite(load_suite({str(path)!r}), results=Path({str(tmp_path / "r")!r}), device="cpu",
                        observer=Listener())
    assert outcome.records[0].status == "ok"
    heavy = [name for name in ("torch", "transformers", "datasets", "pandas", "scipy") if name in sys.modules]
    assert not heavy, heavy
    print("light")
"""
    script = tmp_path / "parent.py"
    script.write_text(code)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=root, timeout=120, check=False,
        env={**__import__("os").environ, "PYTHONPATH": f"{root}:{root / 'methods'}"},
    )  # fmt: skip
    assert done.stdout.strip() == "light", done.stderr
