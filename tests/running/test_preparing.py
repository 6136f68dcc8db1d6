"""What is found before the first run, and what makes a run another one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, ElectraConfig

from peprof.errors import StoreError, SuiteError
from peprof.results.store import ResultStore
from peprof.running.executors.local import Exit, LocalExecutor
from peprof.running.preparing import prepare
from peprof.running.runner import run_suite
from peprof.suite.loading import load_suite
from peprof.training.geometries import known_config
from peprof.training.made_tokenizer import make_tokenizer
from tests.running.helpers import Listener, command, environment, heed_interrupts, write_suite

TSV = "sentence\tlabel\na good film\t1\na bad film\t0\n"


def local_data(directory: Path, train: str = TSV) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "train.tsv").write_text(train)
    (directory / "validation.tsv").write_text(TSV)
    return directory


def run(path: Path, results: Path, *overrides: str, listener: Listener | None = None):  # type: ignore[no-untyped-def]
    return run_suite(
        load_suite(path, overrides=overrides), results=results, device="cpu", observer=listener or Listener()
    )


@pytest.mark.slow
def test_changed_data_is_another_run(tmp_path: Path) -> None:
    path = write_suite(tmp_path, 'name = "head"', phases='"short"')
    data = local_data(tmp_path / "d")
    overrides = (f"data.path={data}", "data.train_rows=none", "data.validation_rows=none")
    (first,) = run(path, tmp_path / "r", *overrides).records
    local_data(tmp_path / "d", TSV + "a dull film\t0\n")
    listener = Listener()
    (second,) = run(path, tmp_path / "r", *overrides, listener=listener).records
    assert first.run_id != second.run_id and listener.planned == [(1, 0)]
    assert second.data is not None and second.data.train_rows == 3
    assert len(ResultStore(tmp_path / "r" / "t").records()) == 2, "the first result is kept"


@pytest.mark.parametrize(
    ("method", "overrides", "words"),
    [
        ('name = "lst"\nreduction = 7', [], ["methods (lst)", "reduction=7", "64"]),
        ('name = "last_layers"\ncount = 9', [], ["methods (last_layers)", "count=9"]),
        ('name = "head"', ["data.max_length=200"], ["data.max_length", "200 tokens", "at most 128"]),
        (
            'name = "lora"',
            ["model.name=ELECTRA", "model.weights=random"],
            ["methods (lora)", "ElectraForSequenceClassification", "DistilBert, Bert, Roberta"],
        ),
    ],
)
def test_what_does_not_fit_the_model_is_a_fault_before_the_first_run(
    tmp_path: Path, method: str, overrides: list[str], words: list[str]
) -> None:
    path = write_suite(tmp_path, method, phases='"short"')
    ElectraConfig(vocab_size=64, hidden_size=16, num_attention_heads=2).save_pretrained(tmp_path / "e")
    replaced = [change.replace("ELECTRA", str(tmp_path / "e")) for change in overrides]
    with pytest.raises(SuiteError) as error:
        run(path, tmp_path / "r", *replaced)
    for word in words:
        assert word in error.value.message
    assert not ResultStore(tmp_path / "r" / "t").records()


def test_texts_are_tokenized_before_the_first_run_and_only_where_they_will_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEPROF_CACHE", str(tmp_path / "cache"))
    data = local_data(tmp_path / "d", TSV + "a dull film\t0\n")
    overrides = (f"data.path={data}",)
    overrides += ("data.train_rows=none", "data.validation_rows=none")

    def entries_after(phases: str, *, fetch: bool, lengths: str) -> tuple[int, list[str]]:
        path = write_suite(tmp_path, 'name = "head"', 'name = "bitfit"', phases=phases)
        path.write_text(path.read_text() + f'[matrix]\n"data.max_length" = {lengths}\n')
        said: list[str] = []
        loaded = load_suite(path, overrides=overrides)
        prepare(loaded, device="cpu", fetch=fetch, say=lambda event: said.append(event.phase))
        found = len(list((tmp_path / "cache" / "tokens").glob("*.safetensors")))
        return found, [phase for phase in said if "tokenizing" in phase]

    assert entries_after('"short"', fetch=True, lengths="[8]") == (0, [])
    assert entries_after('"full"', fetch=False, lengths="[8]") == (0, [])
    once = f"setup: tokenizing {data}"
    # Two splits, for two methods once; then the same for another length.
    assert entries_after('"short", "full"', fetch=True, lengths="[8]") == (2, [once])
    assert entries_after('"full"', fetch=True, lengths="[8, 9]") == (4, [once, once])


def save_model(directory: Path, *, weights: bool) -> Path:
    config = BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32, num_labels=3,
    )  # fmt: skip
    config.save_pretrained(directory)
    if weights:
        BertForSequenceClassification(config).save_pretrained(directory)
        make_tokenizer(["a good bad film"], known_config("bert-base", vocab_size=64)).save_pretrained(
            directory
        )
        AutoTokenizer.from_pretrained(directory)
    return directory


def test_a_local_model_without_weights_is_a_fault(tmp_path: Path) -> None:
    model = save_model(tmp_path / "m", weights=False)
    path = write_suite(tmp_path, 'name = "head"', phases='"short"')
    with pytest.raises(
        SuiteError, match=r"model\.name: there are no weights in .*expected model\.safetensors"
    ):
        run(path, tmp_path / "r", f"model.name={model}", "model.weights=pretrained")


@pytest.mark.slow
def test_a_head_for_other_classes_is_replaced(tmp_path: Path) -> None:
    model = save_model(tmp_path / "m", weights=True)
    path = write_suite(tmp_path, 'name = "head"')
    (record,) = run(path, tmp_path / "r", f"model.name={model}", "model.weights=pretrained").records
    assert record.status == "ok" and record.parameters is not None
    assert record.parameters.trainable_head == (16 * 16 + 16) + (16 * 2 + 2), "two classes, not three"


def test_full_fine_tuning_needs_no_roles(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    LlamaConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    ).save_pretrained(tmp_path / "m")  # fmt: skip
    path = write_suite(tmp_path, 'name = "full"', phases='"short"')
    (record,) = run(path, tmp_path / "r", f"model.name={tmp_path / 'm'}").records
    assert record.status == "ok" and record.parameters is not None
    assert record.parameters.trainable_head == 16 * 2, "Llama's score has no bias"


@pytest.mark.slow
def test_a_damaged_record_costs_none_of_the_others(tmp_path: Path) -> None:
    path = write_suite(tmp_path, 'name = "head"', 'name = "bitfit"', phases='"short"')
    first = run(path, tmp_path / "r")
    damaged = first.store.run_directory(first.records[0].run_id) / "record.json"
    damaged.write_text(damaged.read_text()[:100])
    path = write_suite(tmp_path, 'name = "head"', 'name = "bitfit"', 'name = "faulty"', phases='"short"')
    listener = Listener()
    outcome = run(path, tmp_path / "r", listener=listener)
    assert [record.spec.method.name for record in outcome.records] == ["bitfit", "faulty"]
    assert [str(problem) for problem in outcome.problems] == [
        f"{damaged}: is not complete JSON (100 bytes)"
    ] and any(str(damaged) in text for text in listener.notices)
    assert len(damaged.read_text()) == 100, "it might be a newer peprof's: it is left alone"


def test_results_are_tried_before_anything_long(tmp_path: Path) -> None:
    path = write_suite(tmp_path, 'name = "head"')
    (tmp_path / "r").write_text("a file")
    listener = Listener()
    with pytest.raises(StoreError) as error:
        run(path, tmp_path / "r", listener=listener)
    assert error.value.hint is not None and "--results" in error.value.hint
    assert listener.events == []


@pytest.mark.slow
def test_a_script_without_a_guard_and_standard_input_work_too(tmp_path: Path) -> None:
    path = write_suite(tmp_path, 'name = "head"', phases='"short"')
    code = (
        "from peprof import run_suite\n"
        f"outcome = run_suite({str(path)!r}, results={str(tmp_path / 'r')!r}, device='cpu')\n"
        "print([record.status for record in outcome.records])\n"
    )
    script = tmp_path / "unguarded.py"
    script.write_text(code)
    for arguments, given in (([str(script)], None), (["-"], code)):
        done = subprocess.run(
            [sys.executable, *arguments], input=given, capture_output=True, text=True, timeout=90,
            env=environment(), check=False,
        )  # fmt: skip
        assert done.stdout == "['ok']\n", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.8, 2.5])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_while_torch_is_imported(tmp_path: Path, number: int, code: int, seconds: float) -> None:
    path = write_suite(tmp_path, 'name = "head"')
    parent = subprocess.Popen(
        command("run", path, "--results", tmp_path / "r"),
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=heed_interrupts,
    )  # fmt: skip
    time.sleep(seconds)
    os.killpg(parent.pid, number) if number == signal.SIGINT else parent.terminate()
    _, said = parent.communicate(timeout=30)
    assert parent.returncode == code
    assert "Traceback" not in said and "the same command goes on" in said


def die_in_the_middle_of_a_message(task: object, connection: object, log_path: str) -> None:
    import struct

    os.write(connection.fileno(), struct.pack("!i", 1_000_000) + b"x" * 1000)  # type: ignore[attr-defined]
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_child_that_dies_in_the_middle_of_its_answer_is_an_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peprof.running.executors.local.child_main", die_in_the_middle_of_a_message)
    executor = LocalExecutor()
    try:
        executor.start(None, slot=None, log_path=tmp_path / "log.txt")  # type: ignore[arg-type]
        heard = []
        deadline = time.monotonic() + 60
        while not heard and time.monotonic() < deadline:
            heard = [message for _, message in executor.receive(0.2)]
    finally:
        executor.close()
    assert heard == [Exit(-signal.SIGKILL)]


def test_a_hub_whose_name_is_never_found_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    from peprof.training import sources

    monkeypatch.setattr(sources.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(sources, "PROBE_SECONDS", 0.5)

    def never_found(*arguments: object, **options: object) -> None:
        time.sleep(10)
        raise OSError("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", never_found)
    begin = time.monotonic()
    assert sources.ask_hub("models", "bert-base-cased") == "unreachable"
    assert time.monotonic() - begin < 5


def test_a_child_whose_parent_has_cleared_up_already_says_nothing(tmp_path: Path) -> None:
    """An interrupted parent removes the folder of the log that its child is about to open."""
    code = "import pathlib, sys; from peprof.running.child import _redirect_output as redirect; "
    code += "redirect(pathlib.Path(sys.argv[1])); print('went on')"
    log = tmp_path / "gone" / "log.txt"
    done = subprocess.run([sys.executable, "-c", code, log], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
