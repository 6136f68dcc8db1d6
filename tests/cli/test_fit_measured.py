"""``peprof fit`` on a device that is here, from the command line."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from peprof.cli import fit_measured
from peprof.cli.fit import _device_here, fit
from peprof.cli.fit_measured import _memory
from peprof.errors import DeviceError, PeprofError, RunFailedError, SuiteError, UsageError
from peprof.gpus.room import GpuRoom
from peprof.results.measured_fits import MeasuredFit, Trial
from peprof.running.executors import local
from peprof.running.observing import Silence
from peprof.running.tasks import Slot
from peprof.running.tries import Tries
from peprof.suite import catalogue
from peprof.suite.planning import RunSpec, plan
from tests.estimation.small_models import write_configs
from tests.running.helpers import FAULTY, command, environment, heed_interrupts, write_suite

CPU = ("--device", "cpu", "--measured")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_configs(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def faulty_methods_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FAULTY))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(fit, [str(argument) for argument in arguments])


def refused(*arguments: object) -> PeprofError:
    result = call(*arguments)
    assert isinstance(result.exception, PeprofError), result.output
    assert result.exception.exit_code == 2
    return result.exception


def borders(*arguments: object) -> list[dict[str, Any]]:
    result = call(*arguments, "--format", "json")
    assert result.exit_code == 0, result.output
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


@pytest.mark.slow
def test_a_model_that_is_named_is_tried_with_generated_sentences(models: Path) -> None:
    shape = ("--model", models / "llama-lm", "--method", "lora", "--length", 12)
    [batch, length] = borders(*shape, *CPU, "--memory", "1MB")
    for row in (batch, length):
        assert row["certainty"] == "measured" and row["verified"] and row["device"] == "cpu"
        assert row["peak_bytes"] <= 1_000_000 and row["tried"] == len(row["tries"])
        assert row["beyond"] == row["largest"] + 1 and row["beyond_bytes"] > 1_000_000
        assert abs(row["largest"] - row["estimated_largest"]) <= 0.3 * row["largest"]
    # More examples than there are rows: they are taken again.
    [batch] = borders(*shape, *CPU, "--memory", "1GB", "--largest", "batch", "--length", 4)
    assert batch["largest"] > 512 and batch["verified"]


@pytest.mark.slow(seconds=40)
def test_where_memory_runs_out_or_the_system_kills_is_where_the_border_is(tmp_path: Path) -> None:
    faults = [f'name = "faulty"\nlabel = "{how}"\nhow = "{how}"\nabove = 5' for how in ("oom", "kill")]
    suite = write_suite(tmp_path, *faults)  # with full phases, which nobody waits for here
    result = call(suite, *CPU, "--memory", "12MB", "--largest", "batch", "--format", "json")
    assert result.exit_code == 0, result.output
    for row, ended in zip(json.loads(result.stdout), ("oom", "killed"), strict=True):
        assert (row["largest"], row["beyond"], row["beyond_ended"]) == (5, 6, ended)
        assert row["verified"] and row["estimated_largest"] > 5 and row["beyond_bytes"] is None
        assert row["tried"] <= 14
    assert "oom, batch 6: out of memory in forward of step 1 of 2" in result.stderr
    assert "kill, batch 6: killed in step 1 of 2" in result.stderr


@pytest.mark.slow
def test_what_fails_for_other_reasons_is_said_and_the_rest_is_shown(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, 'name = "faulty"\nhow = "exit"', 'name = "head"')
    result = call(suite, *CPU, "--memory", "9MB", "--largest", "batch", "--format", "csv")
    assert isinstance(result.exception, RunFailedError) and result.exception.exit_code == 3
    assert "1 of 2 borders" in result.exception.message and "these are my last words" in str(result.exception)
    faulty, head = csv.DictReader(io.StringIO(result.stdout))
    assert (faulty["largest"], faulty["verified"]) == ("", "False") and "exit code 7" in faulty["problem"]
    assert head["verified"] == "True" and int(head["largest"]) > 0 and head["problem"] == ""


@pytest.mark.slow
def test_methods_that_nobody_named_and_cant_be_applied_are_left_out(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def try_run(self: Tries, spec: RunSpec, size: int, memory: int, hear: object) -> Trial:
        tried.append(spec.method.label)
        return Trial(size=size, ended="fits" if size <= 9 else "over", seconds=1.0, peak_bytes=1_000 * size)

    monkeypatch.setattr(Tries, "__call__", try_run)
    some = {name: catalogue.known_methods()[name] for name in ("lora", "head", "bitfit")}
    monkeypatch.setattr(catalogue, "known_methods", lambda: some)
    shape = ("--model", models / "llama-lm", "--length", 8, "--largest", "batch", *CPU, "--memory", "1MB")
    result = call(*shape, "--format", "json")
    assert result.exit_code == 0, result.output
    assert [row["method"] for row in json.loads(result.stdout)] == ["lora", "bitfit"]
    assert set(tried) == {"lora", "bitfit"} and "left out: methods (head): can't be applied" in result.stderr
    named = refused(*shape, "--method", "head", "--method", "lora")
    assert isinstance(named, SuiteError) and "methods (head)" in named.message


def test_what_it_takes_to_measure_is_said(models: Path) -> None:
    shape = ("--model", models / "bert", "--method", "lora", "--length", 8)
    without = refused(*shape, *CPU)
    assert isinstance(without, UsageError) and "--memory" in str(without.hint)
    named = refused(*shape, "--device", "H100", "--measured")
    assert "'H100'" in named.message and "cuda:N" in str(named.hint)
    assert "--no-padding" in refused(*shape, *CPU, "--memory", "1GB", "--no-padding").message
    assert "24GB" in str(refused(*shape, *CPU, "--memory", "lots").hint)


def test_what_was_found_is_shown_whatever_ends_it(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **_: Any) -> None:
        [spec] = plan(arguments[0].suite, device="cpu")
        tried = (Trial(size=3, ended="fits", seconds=1.0, peak_bytes=2**20),)
        arguments[4].append(
            MeasuredFit(
                spec=spec, dimension="batch", device="cpu", device_name="a", memory_bytes=2**30, trials=tried
            )
        )
        raise MemoryError("the host is full")

    monkeypatch.setattr(fit_measured, "_find", broken)
    shape = ("--model", models / "bert", "--method", "lora", "--length", 8)
    result = call(*shape, *CPU, "--memory", "1GiB", "--format", "json")
    assert isinstance(result.exception, MemoryError)
    [row] = json.loads(result.stdout)
    assert (row["method"], row["largest"], row["verified"]) == ("lora", 3, False)


@pytest.mark.slow
@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there may be a CUDA device")
def test_a_device_that_isnt_here_is_an_error_as_for_runs(models: Path) -> None:
    shape = ("--model", models / "bert", "--method", "lora", "--length", 8)
    for device in ("cuda", "cuda:9"):
        missing = refused(*shape, "--device", device, "--memory", "1GB")
        assert isinstance(missing, DeviceError) and "no CUDA device" in missing.message
    alone = refused(*shape, "--measured")  # auto: a processor then, whose memory nobody has told
    assert isinstance(alone, UsageError) and "--memory" in str(alone.hint)


@pytest.mark.parametrize(
    ("device", "measured", "here"),
    [
        (None, None, None), ("cpu", None, None), ("H100", None, None), ("rtx4090", False, None),
        ("cuda", False, None), ("cuda:1", False, None), ("cuda", None, "cuda"), ("cuda:1", None, "cuda:1"),
        ("CUDA", None, "cuda"), ("auto", None, "auto"), ("cpu", True, "cpu"), (None, True, "auto"),
        ("gpu9", None, None),
    ],
)  # fmt: skip
def test_which_devices_are_measured_on(device: str | None, measured: bool | None, here: str | None) -> None:
    assert _device_here(device, measured) == here


@pytest.mark.slow
@pytest.mark.parametrize("device", [(), ("--device", "cuda:1", "--estimated")])
def test_estimates_stay_estimates(
    models: Path, device: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local.LocalExecutor, "start", lambda *_, **__: pytest.fail("a process was started"))
    shape = ("--model", models / "bert", "--method", "lora", "--length", 8, "--largest", "batch")
    [row] = borders(*shape, *device, "--memory", "1MB")
    assert row["certainty"] == "exact" and row["largest"] > 0


def test_memory_of_a_gpu_is_what_is_free_unless_less_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tries, "room", lambda self: GpuRoom(free_bytes=10 * 2**30, total_bytes=24 * 2**30))
    with Tries(Slot(device="cuda:0", lock="gpu"), source="", notice=lambda text: None) as tries:
        assert _memory(tries, None, Silence()) == 10 * 2**30
        assert _memory(tries, 2 * 2**30, Silence()) == 2 * 2**30
        with pytest.raises(UsageError) as raised:
            _memory(tries, 10 * 2**30 + 1, Silence())
    assert "24.0 GiB 10.0 GiB are free" in raised.value.message


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_was_found_is_shown_when_it_is_interrupted(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    hang = 'name = "faulty"\nhow = "hang"\nabove = 3'
    suite = write_suite(tmp_path, 'name = "head"', hang)
    parent = subprocess.Popen(
        command("fit", suite, *CPU, "--memory", "9MB", "--largest", "batch", "--format", "json"),
        env={**environment(), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    assert parent.stderr is not None
    said, fits = "", dict[int, bool]()
    while not any(fits[size] and fits.get(size + 1) is False for size in fits):
        said += (line := parent.stderr.readline())
        assert line, said
        if found := re.match(r"head, batch (\d+): (fits|needs more)", line):
            fits[int(found[1])] = found[2] == "fits"
    time.sleep(3)  # until the other one hangs
    if number == signal.SIGINT:
        os.killpg(parent.pid, number)  # as a terminal does: the whole group
    else:
        parent.send_signal(number)
    out, rest = parent.communicate(timeout=30)
    assert parent.returncode == code, said + rest
    head, faulty = json.loads(out)
    assert head["verified"] and head["largest"] > 0
    assert not faulty["verified"] and faulty["largest"] is None
    assert "Interrupted. Not known yet: faulty batch." in rest and "Traceback" not in rest


@pytest.mark.slow
def test_interrupted_at_the_beginning_there_is_nothing_to_show(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, 'name = "head"')
    parent = subprocess.Popen(
        command("fit", suite, *CPU, "--memory", "9MB"),
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=heed_interrupts,
    )  # fmt: skip
    assert parent.stderr is not None
    assert "importing torch" in parent.stderr.readline()
    time.sleep(1.0)  # until the fork server is started, which must not hear of it
    os.killpg(parent.pid, signal.SIGINT)
    out, rest = parent.communicate(timeout=30)
    assert parent.returncode == 130 and out == ""
    assert "Interrupted before anything was tried." in rest and "Traceback" not in rest
