"""What ``peprof estimate`` and ``peprof fit`` say of input that they can't use, and what they end with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from peprof.cli import main
from peprof.cli.estimate import LARGEST_SIZE, estimate
from peprof.cli.fit import fit
from peprof.errors import PeprofError, RunFailedError, SuiteError, UsageError
from peprof.estimation import estimating, fitting
from peprof.estimation.targets import find_target, read_bytes
from peprof.results.estimates import SEARCH_END
from tests.estimation.small_models import write_configs

GIB = 2**30


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_configs(tmp_path_factory.mktemp("models"))


def call(command: Any, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def refused(command: Any, *arguments: object) -> PeprofError:
    result = call(command, *arguments)
    assert isinstance(result.exception, PeprofError), result.output
    assert result.exception.exit_code == 2 and result.stdout == ""
    return result.exception


def shape(models: Path, *more: object) -> tuple[object, ...]:
    return ("--model", models / "bert", "--batch", 2, "--length", 8, *more)


@pytest.mark.parametrize("name", ["", "  "])
def test_a_model_without_a_name_is_refused(name: str) -> None:
    for command in (estimate, fit):
        memory = ("--memory", "1GB") if command is fit else ()
        assert "it is empty" in refused(command, "--model", name, *memory).message


def test_a_directory_that_is_none_is_told_from_one_without_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    words = {"none": "there is no such directory", "file": "a file, not a directory", ".": "no config.json"}
    for name, said in words.items():
        fault = refused(estimate, "--model", f"{tmp_path}/{name}")
        assert isinstance(fault, SuiteError) and said in fault.message


def test_an_unknown_name_is_told_what_would_be_enough() -> None:
    assert "config.json, which is enough" in refused(estimate, "--model", "nosuch-7b").message


def test_a_wrong_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "num_attention_heads": 0}')
    for command in (estimate, fit):
        memory = ("--memory", "1GB") if command is fit else ()
        assert "num_attention_heads is 0" in refused(command, "--model", tmp_path, *memory).message


@pytest.mark.parametrize("text", ["{nope", "[]"])
def test_a_wrong_tokenizer_is_refused(models: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text((models / "bert" / "config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(text)
    fault = refused(estimate, "--model", tmp_path, "--method", "lora", "--length", 8)
    assert isinstance(fault, SuiteError) and "can't be loaded" in fault.message


def test_what_only_breaks_in_a_step_is_a_row(models: Path, tmp_path: Path) -> None:
    values = json.loads((models / "t5" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "relative_attention_num_buckets": 0}))
    result = call(estimate, "--model", tmp_path, "--method", "lora", "--length", 8)
    assert isinstance(result.exception, RunFailedError) and "division" in result.exception.message


def test_a_suite_and_a_model_are_too_much(models: Path) -> None:
    both = refused(estimate, "sst2", "--model", "bert-base")
    assert "both a suite (sst2) and a model (--model bert-base)" in both.message
    assert "--set model.name=bert-base" in str(both.hint)


@pytest.mark.parametrize(
    ("given", "setting"),
    [
        (("--batch", 4), "--set train.batch_size=4."),
        (("--length", 64), "--set data.max_length=64."),
        (("--dtype", "bfloat16"), "--set model.dtype=bfloat16."),
        (("--quantization", "nf4"), "--set model.quantization=nf4."),
        (("--task", "regression"), "--set data.task=regression."),
        (("--checkpointing",), "--set methods.LABEL.gradient_checkpointing=true."),
    ],
)
def test_each_option_is_told_what_a_suite_calls_it(given: tuple[object, ...], setting: str) -> None:
    assert str(refused(estimate, "sst2", *given).hint).endswith(setting)


def test_a_method_that_a_suite_hasnt_is_named_as_it_was_asked_for() -> None:
    assert refused(estimate, "sst2", "--method", "nosuch").message.startswith("--method nosuch: the suite")


def test_a_method_whose_options_make_no_sense_is_refused_as_by_a_run(models: Path) -> None:
    wrong = ("--method", "lora", "--set", "methods.lora.rank=-3")
    for command in (estimate, fit):
        memory = ("--memory", "1GB") if command is fit else ()
        fault = refused(command, *shape(models, *wrong, *memory))
        assert isinstance(fault, SuiteError) and "methods (lora): rank=-3" in fault.message
    options = ("--method", "lora", "--set", 'train.optimizer_options={"nosuch"=1}')
    assert "train.optimizer_options.nosuch" in refused(estimate, *shape(models, *options)).message


def test_a_library_that_isnt_here_is_no_fault_of_an_estimate(models: Path) -> None:
    given = shape(models, "--method", "lora", "--set", "train.optimizer=adamw-8bit", "--format", "json")
    [row] = json.loads(call(estimate, *given).stdout)
    assert row["problem"] is None


@pytest.mark.parametrize("size", ["99999999999999999999999", str(LARGEST_SIZE + 1), "0"])
def test_sizes_end_where_nobody_trains(models: Path, size: str) -> None:
    assert LARGEST_SIZE == SEARCH_END == 2**20
    for option in ("--batch", "--length"):
        result = call(estimate, "--model", models / "bert", option, size)
        assert result.exit_code == 2 and "<=x<=1048576" in result.stderr
    if size != "0":
        setting = ("--method", "lora", "--set", f"train.batch_size={size}")
        assert "at most 1,048,576" in refused(estimate, *shape(models, *setting)).message


def test_a_size_that_is_no_number_is_told_so(models: Path) -> None:
    said = call(estimate, "--model", models / "bert", "--batch", "abc").stderr
    assert "'abc' is not a valid whole number" in said


@pytest.mark.parametrize("output_format", ["table", "json", "csv", "markdown"])
def test_where_no_row_can_be_told_the_command_has_failed(models: Path, output_format: str) -> None:
    given = shape(models, "--method", "full", "--quantization", "nf4", "--format", output_format)
    for command in (estimate, fit):
        memory = ("--memory", "1GB", "--largest", "batch") if command is fit else ()
        result = call(command, *given, *memory)
        assert isinstance(result.exception, RunFailedError) and result.exception.exit_code == 3
        assert result.exception.message.startswith("nothing could be told of any method: ")
        assert "is held in 4 bits" in result.exception.message and "full" in result.stdout


def test_where_one_row_can_be_told_it_hasnt(models: Path) -> None:
    given = shape(models, "--method", "full", "--method", "lora", "--quantization", "nf4")
    assert call(estimate, *given).exit_code == 0


def test_a_number_without_a_unit_isnt_taken_for_bytes() -> None:
    with pytest.raises(UsageError, match=r"^24 what\?$") as caught:
        read_bytes("24")
    assert "24GB" in str(caught.value.hint) and "24GiB" in str(caught.value.hint)
    assert read_bytes(str(2**20)) == 2**20 and read_bytes("24 B") == 24
    with pytest.raises(UsageError, match="no amount of memory"):
        read_bytes("9" * 400)


def test_memory_that_a_named_gpu_hasnt_is_refused(models: Path) -> None:
    fault = refused(fit, *shape(models), "--device", "T4", "--memory", "900GB")
    assert "838 GiB" in fault.message and "14.6 GiB" in fault.message and "Leave" in str(fault.hint)


def test_how_much_there_is_is_asked_for_in_the_words_of_who_asked(models: Path) -> None:
    nothing = refused(fit, *shape(models))
    assert nothing.message == "how much memory there is isn't known" and "--device" in str(nothing.hint)
    named = refused(fit, *shape(models), "--device", "cuda:1", "--estimated")
    assert named.message == "how much memory 'cuda:1' has isn't known"


def test_the_note_says_what_the_memory_is(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    given = shape(models, "--method", "lora", "--largest", "length", "--device", "T4")
    of_card, said = call(fit, *given).stdout, call(fit, *given, "--memory", "1GiB").stdout
    assert "is the GPU's memory less what its context is assumed to take" in of_card
    assert "1.00 GiB is what you said that it may hold" in said and "512 MiB as is assumed" in said
    assert "you said" in call(fit, *given, "--memory", "1GiB", "--format", "markdown").stdout


@pytest.mark.parametrize("name", ["cuda:1", "CUDA:0", "auto", "cuda"])
def test_a_gpu_that_may_be_here_stands_for_its_kind(name: str) -> None:
    assert find_target(name).kind == "cuda" and find_target(name).gpu is None


@pytest.mark.parametrize("command", ["estimate", "fit"])
def test_an_unknown_device_is_told_without_torch(command: str) -> None:
    code = (
        "import sys; sys.argv = ['peprof', *sys.argv[1:]]\n"
        "from peprof.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: print(stop.code, 'torch' in sys.modules)"
    )
    line = (command, "--model", "bert-base", "--device", "gpu9")
    done = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "2 False" and "gpu9" in done.stderr


def test_classes_are_supposed_in_words_of_the_command_line(models: Path) -> None:
    table = call(estimate, *shape(models, "--method", "head")).stdout
    assert "2 classes (--labels N says otherwise)" in table and "any/data" not in table
    [two] = json.loads(call(estimate, *shape(models, "--method", "head", "--format", "json")).stdout)
    given = shape(models, "--method", "head", "--labels", 5, "--format", "json")
    [five] = json.loads(call(estimate, *given).stdout)
    # A row of weights and a bias for each class.
    assert five["trainable_parameters"] - two["trainable_parameters"] == 3 * (32 + 1)
    assert "no classes" in refused(estimate, "--model", models / "llama", "--labels", 5).message


def interrupt_at(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, turn: int) -> None:
    """Ctrl-C comes in the turn-th call of a function."""
    turns, original = iter(range(1, 99)), getattr(module, name)

    def interrupted(*arguments: Any, **named: Any) -> Any:
        if next(turns) == turn:
            raise KeyboardInterrupt
        return original(*arguments, **named)

    monkeypatch.setattr(module, name, interrupted)


@pytest.mark.parametrize(
    ("command", "module", "function", "words"),
    [
        ("estimate", estimating, "estimate_run", "Interrupted before anything was estimated."),
        ("fit", fitting, "find_fits", "Interrupted before anything was found."),
    ],
)
@pytest.mark.parametrize("turn", [1, 2])
def test_what_was_found_is_shown_when_it_is_interrupted(
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    module: Any,
    function: str,
    words: str,
    turn: int,
) -> None:
    interrupt_at(monkeypatch, module, function, turn)
    memory = ("--memory", "1GB", "--largest", "length") if command == "fit" else ()
    given = shape(models, "--method", "head", "--method", "lora", "--format", "json", *memory)
    monkeypatch.setattr("sys.argv", ["peprof", command, *map(str, given)])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    assert stop.value.code == 130 and "Finished runs" not in said.err
    if turn == 1:
        assert words in said.err and said.out == ""
    else:
        assert "Interrupted. Not known yet: lora." in said.err
        assert [row["method"] for row in json.loads(said.out)] == ["head"]
