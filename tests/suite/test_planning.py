"""Which runs a suite makes, in which order, and what makes two runs the same."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import Any

import pytest

from peprof.suite.loading import load_suite
from peprof.suite.planning import RunSpec, plan
from peprof.suite.schema import (
    DataConfig,
    LimitsConfig,
    MethodConfig,
    ModelConfig,
    ShortConfig,
    Suite,
    TrainConfig,
)
from tests.suite.conftest import Write


def suite(**changes: Any) -> Suite:
    parts: dict[str, Any] = {
        "name": "a",
        "model": ModelConfig(name="peprof/tiny"),
        "data": DataConfig(name="peprof/reviews"),
        "train": TrainConfig(seeds=(3, 1)),
        "methods": (
            MethodConfig(name="full", label="full"),
            MethodConfig(name="lora", label="lora", options={"rank": 8}, learning_rate=1e-3),
        ),
    }
    return Suite(**{**parts, **changes})


def spec(**changes: Any) -> RunSpec:
    parts: dict[str, Any] = {
        "suite": "a",
        "phases": ("short", "full"),
        "model": ModelConfig(name="peprof/tiny"),
        "data": DataConfig(name="peprof/reviews"),
        "train": TrainConfig(learning_rate=1e-5, seeds=(0, 1)),
        "short": ShortConfig(),
        "limits": LimitsConfig(),
        "method": MethodConfig(
            name="lora", label="lora-r8", options={"rank": 8, "targets": ("attention.query",)}
        ),
        "seed": 1,
        "device": "cpu",
    }
    return RunSpec(**{**parts, **changes})


def test_the_methods_come_innermost() -> None:
    runs = plan(suite(matrix={"train.batch_size": (16, 32)}), device="cpu")
    assert [(run.train.batch_size, run.seed, run.method.label) for run in runs] == [
        (16, 3, "full"), (16, 3, "lora"), (16, 1, "full"), (16, 1, "lora"),
        (32, 3, "full"), (32, 3, "lora"), (32, 1, "full"), (32, 1, "lora"),
    ]  # fmt: skip
    assert len({run.run_id for run in runs}) == 8


def test_what_a_method_overrides_lies_in_its_training() -> None:
    full, lora = plan(suite(phases=("short",)), device="cpu")
    assert (full.train.learning_rate, lora.train.learning_rate) == (5e-5, 1e-3)
    assert full.train.weight_decay == lora.train.weight_decay == 0.0


def test_short_phases_alone_take_the_first_seed() -> None:
    assert [run.seed for run in plan(suite(phases=("short",)), device="cpu")] == [3, 3]
    assert [run.seed for run in plan(suite(phases=("full",)), device="cpu")] == [3, 3, 1, 1]


def test_runs_that_are_the_same_are_planned_once() -> None:
    # lora has its own learning rate, so that the matrix makes one run of it, twice.
    runs = plan(suite(phases=("short",), matrix={"train.learning_rate": (0.1, 0.2)}), device="cpu")
    assert [(run.method.label, run.train.learning_rate) for run in runs] == [
        ("full", 0.1), ("lora", 1e-3), ("full", 0.2),
    ]  # fmt: skip
    twice = suite(train=TrainConfig(seeds=(0, 0)))
    assert len(plan(twice, device="cpu")) == 2


def test_a_methods_own_axis_multiplies_that_method_and_names_its_rows() -> None:
    matrix = {
        "methods.lora.rank": (4, 8),
        "methods.lora.learning_rate": (0.5, 0.25),
        "methods.lora.targets": (("attention.query", "attention.value"), "any/where", "any-where", "x" * 90),
    }
    runs = plan(suite(phases=("short",), matrix=matrix), device="cpu")
    assert [run.method.label for run in runs][:6] == [
        "full",
        "lora@rank=4,learning_rate=0.5,targets=attention.query+attention.value",
        "lora@rank=4,learning_rate=0.5,targets=any-where",
        "lora@rank=4,learning_rate=0.5,targets=any-where-3",
        f"lora@rank=4,learning_rate=0.5,targets={'x' * 36}-4",
        "lora@rank=4,learning_rate=0.25,targets=attention.query+attention.value",
    ]
    assert len({run.run_id for run in runs}) == len(runs) == 1 + 2 * 2 * 4
    assert runs[5].method.options == {"rank": 4, "targets": ("attention.query", "attention.value")}
    assert runs[5].train.learning_rate == 0.25


def test_a_label_with_a_dot_is_addressed() -> None:
    methods = (MethodConfig(name="lora", label="lora"), MethodConfig(name="lora", label="lora.v2"))
    runs = plan(
        suite(methods=methods, phases=("short",), matrix={"methods.lora.v2.rank": (1, 2)}), device="cpu"
    )
    assert [run.method.label for run in runs] == ["lora", "lora.v2@rank=1", "lora.v2@rank=2"]


def test_a_matrix_of_data_replaces_the_source() -> None:
    runs = plan(suite(phases=("short",), matrix={"data.path": ("/x", "/y")}), device="cpu")
    assert [(run.data.name, run.data.path) for run in runs] == 2 * [(None, "/x")] + 2 * [(None, "/y")]


def test_device_and_reason_are_carried() -> None:
    run = plan(suite(), device="cuda", offline_reason="the hub can't be reached")[0]
    assert (run.device, run.offline_reason, run.suite) == ("cuda", "the hub can't be reached", "a")


# Written by hand: what an id stands for, independent of the code that makes it.
_DECIDES = (
    '{"data":{"label":"label","max_length":128,"name":"peprof/reviews","path":null,"subset":null,'
    '"text":["sentence"],"train_rows":null,"train_split":"train","validation_rows":null,'
    '"validation_split":"validation"},"device":"cpu","method":{"name":"lora","options":{"rank":8,'
    '"targets":["attention.query"]}},"model":{"attention":"sdpa","dtype":"float32","name":"peprof/tiny",'
    '"revision":null,"weights":"pretrained"},"phases":["short","full"],"short":{"max_seconds":60.0,'
    '"steps":30,"warmup_steps":5},"train":{"batch_size":32,"epochs":3,"evaluate_every_steps":null,'
    '"evaluation_batch_size":64,"learning_rate":1e-05,"max_grad_norm":1.0,"max_steps":null,'
    '"optimizer":"adamw","schedule":"linear","warmup_fraction":0.06,"weight_decay":0.0}}'
)
_RUN_ID = "lora-r8-s1-f4a5c0f918"


def test_the_id_is_what_it_was() -> None:
    assert f"lora-r8-s1-{hashlib.sha256(_DECIDES.encode()).hexdigest()[:10]}" == _RUN_ID
    assert spec().run_id == _RUN_ID


def test_steps_alone_have_the_id_that_they_had_before_there_was_a_least_time() -> None:
    """A suite that named its steps, and one that named nothing, go on with their results."""
    named = spec(short=ShortConfig(steps=30, warmup_steps=5, max_seconds=60.0))
    assert named.short.min_seconds is None and named.run_id == _RUN_ID
    of_before = json.loads(spec().model_dump_json())
    for key in ("extra_warmup_steps", "min_seconds", "rounds"):
        del of_before["short"][key]
    assert RunSpec.model_validate_json(json.dumps(of_before)).run_id == _RUN_ID


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({}, (30, 3.0)),
        ({"max_seconds": 20.0, "warmup_steps": 3}, (30, 3.0)),
        ({"steps": 10}, (10, None)),
        ({"min_seconds": 1.5}, (30, 1.5)),
        ({"min_seconds": "none"}, (30, None)),
        ({"steps": 10, "min_seconds": 1.5}, (10, 1.5)),
    ],
)
def test_thirty_steps_and_three_seconds_where_a_suite_says_neither(
    said: dict[str, object], found: tuple[int, float | None]
) -> None:
    short = ShortConfig.model_validate(said)
    assert (short.steps, short.min_seconds) == found
    assert ShortConfig.model_validate_json(short.model_dump_json()) == short


def test_the_id_is_the_same_in_another_process_and_after_json() -> None:
    text = spec().model_dump_json()
    assert RunSpec.model_validate_json(text) == spec()
    code = "import sys; from peprof.suite.planning import RunSpec\n" + (
        "print(RunSpec.model_validate_json(sys.stdin.read()).run_id)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=text, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == _RUN_ID


# One other value for each field; a field that is added has to be added here, on one side or the other.
_DECIDING: dict[str, dict[str, object]] = {
    "model": {
        "name": "b", "weights": "random", "dtype": "bfloat16", "attention": "eager", "revision": "v2",
        "quantization": "nf4",
    },
    "data": {
        "name": "b", "path": "/b", "subset": "b", "text": ("b",), "label": "b", "max_length": 64,
        "train_split": "b", "validation_split": "b", "train_rows": 5, "validation_rows": 5,
        "task": "text-to-text", "prefix": "b ", "verbalizers": ("b", "c"), "max_target_length": 5,
        "metrics": ("f1",),
    },
    "train": {
        "batch_size": 5, "epochs": 5, "max_steps": 5, "learning_rate": 0.5, "weight_decay": 0.5,
        "optimizer": "sgd", "schedule": "cosine", "warmup_fraction": 0.5, "max_grad_norm": None,
        "evaluate_every_steps": 5, "evaluation_batch_size": 5, "group_by_length": True,
        "optimizer_options": {"eps": 0.5}, "gradient_accumulation_steps": 2, "autocast": "bfloat16",
        "max_seconds": 5.0, "keep": "best", "early_stopping_patience": 5,
    },
    "short": {
        "warmup_steps": 6, "steps": 6, "max_seconds": None, "energy_seconds": None, "inference": True,
        "extra_warmup_steps": 6, "min_seconds": 6.0, "rounds": 3, "estimate": True,
    },
    "method": {"name": "b", "options": {"rank": 9, "targets": ("attention.query",)},
               "gradient_checkpointing": True},
}  # fmt: skip
_NOT_DECIDING: dict[str, dict[str, object]] = {
    "limits": {"run_seconds": 5.0},
    "train": {
        "seeds": (1, 2, 3),
        "save_adapter": True,
        "target": 0.5,
        "checkpoint_every_seconds": None,
    },
    # Laid into train already.
    "method": {"label": "b", "learning_rate": 0.5, "weight_decay": 0.5},
}
_TOP_DECIDING = {"phases": ("short",), "seed": 2, "device": "cuda", "content": "0123"}
_TOP_NOT_DECIDING = {"suite": "b", "offline_reason": "no network"}


# Whose fields make sense together only.
TEXT_TO_TEXT = {"task": "text-to-text", "verbalizers": ("x", "y"), "prefix": "x ", "max_target_length": 3}


def changed(part: str, field: str, value: object) -> RunSpec:
    config = getattr(spec(), part)
    values = {**dict(config), field: value}
    if (part, field) == ("data", "path"):
        values["name"] = None
    if field in TEXT_TO_TEXT:
        values = {**TEXT_TO_TEXT, field: value, "name": values["name"]}
    return spec(**{part: type(config).model_validate(values)})


@pytest.mark.parametrize(
    ("part", "field"), [(part, field) for part, fields in _DECIDING.items() for field in fields]
)
def test_whatever_decides_the_result_decides_the_id(part: str, field: str) -> None:
    other = changed(part, field, _DECIDING[part][field])
    assert other != spec()
    assert other.run_id != _RUN_ID


@pytest.mark.parametrize(
    ("part", "field"), [(part, field) for part, fields in _NOT_DECIDING.items() for field in fields]
)
def test_whatever_does_not_decide_leaves_the_hash(part: str, field: str) -> None:
    other = changed(part, field, _NOT_DECIDING[part][field])
    assert other != spec()
    assert other.run_id.rpartition("-")[2] == _RUN_ID.rpartition("-")[2]


def test_whatever_decides_what_is_written_decides_the_id() -> None:
    ids = {changed("data", field, _DECIDING["data"][field]).run_id for field in TEXT_TO_TEXT}
    assert len(ids) == len(TEXT_TO_TEXT), "each differs from the others"


def test_fields_of_the_run_itself() -> None:
    for field, value in _TOP_DECIDING.items():
        assert spec(**{field: value}).run_id != _RUN_ID
    for field, value in _TOP_NOT_DECIDING.items():
        assert spec(**{field: value}).run_id == _RUN_ID


def test_no_field_is_forgotten() -> None:
    told = {*_DECIDING, *_NOT_DECIDING, *_TOP_DECIDING, *_TOP_NOT_DECIDING}
    assert told == set(RunSpec.model_fields)
    for part in {*_DECIDING, *_NOT_DECIDING}:
        fields = {*_DECIDING.get(part, {}), *_NOT_DECIDING.get(part, {})}
        assert fields == set(type(getattr(spec(), part)).model_fields), part


def test_a_matrix_may_vary_what_is_read_and_written(write_suite: Write) -> None:
    text = (
        'name = "a"\n[model]\nname = "t5-small"\nweights = "random"\n[data]\nname = "peprof/reviews"\n'
        'task = "text-to-text"\nverbalizers = ["bad", "good"]\n[[methods]]\nname = "full"\n'
        '[matrix]\n"data.prefix" = ["a: ", "b: "]\n"data.verbalizers" = [["no", "yes"], ["bad", "good"]]\n'
    )
    specs = plan(load_suite(write_suite(text)).suite, device="cpu")
    assert [(one.data.prefix, one.data.verbalizers) for one in specs] == [
        ("a: ", ("no", "yes")), ("a: ", ("bad", "good")), ("b: ", ("no", "yes")), ("b: ", ("bad", "good")),
    ]  # fmt: skip
    assert RunSpec.model_validate_json(specs[0].model_dump_json()) == specs[0]
