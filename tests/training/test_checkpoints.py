"""A training that is killed and gone on with in a fresh model ends as one that wasn't, to the bit."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from peprof.devices import CpuDevice
from peprof.events import Progress
from peprof.suite.schema import TrainConfig
from peprof.training import checkpoints
from peprof.training.batches import EncodedSplit
from peprof.training.checkpoints import CheckpointError, read_checkpoint, write_checkpoint
from peprof.training.data import Split
from peprof.training.geometries import known_config
from peprof.training.made_tokenizer import make_tokenizer
from peprof.training.moving_state import MovingState, StateMismatchError, frozen_digest
from peprof.training.optimizers import EIGHT_BIT, OPTIMIZERS, default_groups, make_optimizer
from peprof.training.schedules import make_schedule
from peprof.training.step import ClassifierStep
from peprof.training.trainer import Trainer, planned_steps
from peprof.training.training_state import Training
from tests.methods.method_geometries import VOCABULARY, tiny
from tests.methods.test_every_method_trains import CASES, Case, applied

ROWS, KEPT_AT, KILLED_AT, STEPS = 18, 4, 7, 10
CONFIG = TrainConfig(
    batch_size=4, epochs=2, learning_rate=3e-3, weight_decay=0.01, evaluate_every_steps=2, schedule="cosine"
)
IDENTITY: dict[str, Any] = {"run_id": "lora-s0-abc", "conditions": {"torch": "2"}}


class Killed(Exception):
    """What stands for SIGKILL."""


def encoded(rows: int) -> EncodedSplit:
    """Rows of two to six words, every other one of class 1."""
    words = ("good", "bad", "fine", "dull", "nice", "poor")
    texts = tuple((" ".join(words[(row * 5 + i) % 6] for i in range(2 + row % 5)),) for row in range(rows))
    config = known_config("bert-base", vocab_size=VOCABULARY)
    tokenizer = make_tokenizer((text for row in texts for text in row), config)
    split = Split(texts=texts, labels=tuple(row % 2 for row in range(rows)))
    return EncodedSplit(split, tokenizer, max_length=8)


DATA = encoded(ROWS)


def built(case: Case, config: TrainConfig, dtype: torch.dtype = torch.float32) -> tuple[ClassifierStep, Any]:
    """A step over a fresh model, the same each time; what random generators did before has no part in it."""
    random.seed(1)
    np.random.seed(1)
    model = tiny("bert", seed=30, dropout=0.1).to(dtype)
    method, model = applied(case, model, "bert")
    grouped = getattr(method, "parameter_groups", None)
    groups = (
        grouped(model, config.learning_rate, config.weight_decay)
        if grouped
        else default_groups(model, config.weight_decay)
    )
    optimizer = make_optimizer(config, groups)
    total = planned_steps(config, ROWS)
    step = ClassifierStep(
        model,
        optimizer,
        schedule=make_schedule(config, optimizer, total),
        max_grad_norm=config.max_grad_norm,
        loss_term=partial(method.loss_term, model) if hasattr(method, "loss_term") else None,
        after_step=partial(method.after_step, model, total_steps=total)
        if hasattr(method, "after_step")
        else None,
        parts=config.gradient_accumulation_steps,
        autocast=config.autocast,
    )
    return step, method


class Keeping:
    """Keeps a training at one step, in a file."""

    def __init__(self, moving: MovingState, path: Path) -> None:
        self._moving, self._path = moving, path

    def due(self, elapsed_s: float) -> bool:
        return True

    def keep(self, training: Training) -> None:
        if training.steps == KEPT_AT:
            content = {"moving": self._moving.taken(), "training": training.as_state()}
            write_checkpoint(self._path, content, **IDENTITY)


def killed(case: Case, config: TrainConfig, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Trains, keeps the training at ``KEPT_AT`` and dies later."""
    step, method = built(case, config, dtype)

    def say(event: Progress) -> None:
        if event.phase == "full: training" and event.step == KILLED_AT:
            raise Killed

    keeping = Keeping(MovingState(step, method, torch.device("cpu")), path)
    with pytest.raises(Killed):
        Trainer(step, config, CpuDevice(), seed=7, progress=say, keeper=keeping).train(DATA, DATA)


def gone_on(
    case: Case, config: TrainConfig, content: dict[str, Any], dtype: torch.dtype = torch.float32
) -> tuple[Training, nn.Module, int]:
    """Builds all anew, restores and trains to the end; also the steps that were run for it."""
    step, method = built(case, config, dtype)
    moving = MovingState(step, method, torch.device("cpu"))
    torch.rand(3), np.random.rand(3), random.random()  # whatever a process did before
    moving.put_back(content["moving"])
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    step.optimizer.register_step_pre_hook(count)
    training = Training.of_state(content["training"])
    found = Trainer(step, config, CpuDevice(), seed=7, training=training).train(DATA, DATA)
    return found, step.model, steps


def whole(case: Case, config: TrainConfig, dtype: torch.dtype = torch.float32) -> tuple[Training, nn.Module]:
    step, _ = built(case, config, dtype)
    return Trainer(step, config, CpuDevice(), seed=7).train(DATA, DATA), step.model


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def assert_ends_the_same(
    case: Case, config: TrainConfig, directory: Path, dtype: torch.dtype = torch.float32
) -> Training:
    expected, trained = whole(case, config, dtype)
    assert len(expected.loss) == STEPS and len(set(expected.loss)) == STEPS
    path = directory / "training.pt"
    killed(case, config, path, dtype)
    content = read_checkpoint(path, **IDENTITY)
    assert content is not None
    found, model, steps = gone_on(case, config, content, dtype)
    assert steps == STEPS - KEPT_AT, "it really went on, and didn't begin anew"
    assert found.resumes == 1
    assert found.loss == expected.loss
    assert found.learning_rate == expected.learning_rate
    assert found.gradient_norm == expected.gradient_norm
    assert len(found.step_time_s) == STEPS and len(found.epoch_times_s) == 2
    assert [(e.step, e.loss, e.metrics) for e in found.evaluations] == [
        (e.step, e.loss, e.metrics) for e in expected.evaluations
    ]
    assert (found.result_step, found.predictions) == (expected.result_step, expected.predictions)
    own = tensors(model)
    assert own.keys() == tensors(trained).keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in tensors(trained).items())
    return found


def case_of(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_method_goes_on_to_the_bit(case: Case, tmp_path: Path) -> None:
    assert_ends_the_same(case, CONFIG, tmp_path)


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, *EIGHT_BIT])
def test_every_optimizer_goes_on_to_the_bit(optimizer: str, tmp_path: Path) -> None:
    options = {}
    if optimizer in EIGHT_BIT:
        pytest.importorskip("bitsandbytes")
        options = {"min_8bit_size": 64}  # as the model is small
    config = CONFIG.model_copy(update={"optimizer": optimizer, "optimizer_options": options})
    assert_ends_the_same(case_of("lora"), config, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"autocast": "bfloat16"},
        {"autocast": "float16"},
        {"gradient_accumulation_steps": 2},
        {"group_by_length": True},
        {"keep": "best"},
        {"autocast": "float16", "gradient_accumulation_steps": 4, "group_by_length": True, "keep": "best"},
    ],
    ids=lambda change: "+".join(change),
)
def test_every_way_of_training_goes_on_to_the_bit(change: dict[str, Any], tmp_path: Path) -> None:
    assert_ends_the_same(case_of("adalora"), CONFIG.model_copy(update=change), tmp_path)


def test_the_weights_of_a_best_evaluation_before_the_kill_are_put_back(tmp_path: Path) -> None:
    """At this rate the first evaluations are the best, and their weights live in the checkpoint alone."""
    config = CONFIG.model_copy(update={"keep": "best", "learning_rate": 0.5, "early_stopping_patience": 9})
    found = assert_ends_the_same(case_of("full"), config, tmp_path)
    assert found.result_step is not None and found.result_step <= KEPT_AT


def test_state_of_another_dtype_than_the_parameters_goes_on_to_the_bit(tmp_path: Path) -> None:
    """NAdam keeps a product in float32, which its own ``load_state_dict`` casts to the parameter's dtype."""
    config = CONFIG.model_copy(update={"optimizer": "nadam"})
    assert_ends_the_same(case_of("lora"), config, tmp_path, torch.bfloat16)


@pytest.mark.parametrize("tuner", ["ADALORA", "ADAMSS"])
def test_what_a_library_remembers_goes_on_to_the_bit(tuner: str, tmp_path: Path) -> None:
    from peprof_methods.peft_bridge import PeftTuner

    options: dict[str, dict[str, Any]] = {
        "ADALORA": {"init_r": 6, "target_r": 2, "tinit": 1, "tfinal": 2, "deltaT": 2},
        "ADAMSS": {
            "r": 4, "num_subspaces": 2, "use_asa": True, "init_warmup": 0, "final_warmup": 9,
            "mask_interval": 3, "asa_target_subspaces": 3,
        },
    }  # fmt: skip

    class OfLibrary(Case):
        def make(self) -> Any:
            return PeftTuner(tuner=tuner, options=options[tuner])

    assert_ends_the_same(OfLibrary(f"peft:{tuner}", PeftTuner), CONFIG, tmp_path)


@pytest.mark.parametrize("part", ["parameters", "buffers", "step", "random"])
def test_nothing_of_it_could_be_left_out(part: str, tmp_path: Path) -> None:
    """With one part as it was at first, the training is another one: what shows that the others see it."""
    case = case_of("adalora")
    path = tmp_path / "training.pt"
    killed(case, CONFIG, path)
    content = read_checkpoint(path, **IDENTITY)
    assert content is not None
    step, method = built(case, CONFIG)
    content["moving"][part] = MovingState(step, method, torch.device("cpu")).taken()[part]
    assert gone_on(case, CONFIG, content)[0].loss != whole(case, CONFIG)[0].loss


def test_frozen_weights_are_not_kept_but_changed_ones_are(tmp_path: Path) -> None:
    step, method = built(case_of("lora"), CONFIG)
    moving = MovingState(step, method, torch.device("cpu"))
    trained = {name for name, p in step.model.named_parameters() if p.requires_grad}
    assert moving.taken()["parameters"].keys() == trained
    frozen = step.model.get_parameter("bert.embeddings.word_embeddings.weight")
    with torch.no_grad():
        frozen[3] += 1  # a method may do that
    taken = moving.taken()
    assert taken["parameters"].keys() == trained | {"bert.embeddings.word_embeddings.weight"}
    again, method = built(case_of("lora"), CONFIG)
    MovingState(again, method, torch.device("cpu")).put_back(taken)
    assert torch.equal(again.model.get_parameter("bert.embeddings.word_embeddings.weight"), frozen)


def test_other_frozen_weights_are_noticed() -> None:
    step, method = built(case_of("lora"), CONFIG)
    taken = MovingState(step, method, torch.device("cpu")).taken()
    other, method = built(case_of("lora"), CONFIG)
    with torch.no_grad():
        other.model.get_parameter("bert.encoder.layer.1.output.dense.weight").mul_(1.001)
    with pytest.raises(StateMismatchError, match="the frozen weights are others"):
        MovingState(other, method, torch.device("cpu")).put_back(taken)


def test_the_digest_sees_names_shapes_dtypes_and_values() -> None:
    def model(**changes: Any) -> nn.Module:
        made = nn.Linear(changes.get("inputs", 3), 200, dtype=changes.get("dtype"))
        nn.init.constant_(made.weight, changes.get("value", 1.0))
        nn.init.zeros_(made.bias)
        return nn.ModuleDict({changes.get("name", "a"): made}).requires_grad_(False)

    changes: list[dict[str, Any]] = [
        {}, {"inputs": 4}, {"dtype": torch.bfloat16}, {"value": 1.5}, {"name": "b"},
    ]  # fmt: skip
    digests = {frozen_digest(model(**change)) for change in changes}
    assert len(digests) == len(changes)
    assert frozen_digest(model()) == frozen_digest(model())


@pytest.mark.parametrize("other", ["bitfit", "sparse", "lora/all"])
def test_the_state_of_another_method_is_refused(other: str) -> None:
    step, method = built(case_of("lora"), CONFIG)
    taken = MovingState(step, method, torch.device("cpu")).taken()
    step, method = built(case_of(other), CONFIG)
    with pytest.raises(StateMismatchError):
        MovingState(step, method, torch.device("cpu")).put_back(taken)


def write(path: Path) -> None:
    write_checkpoint(path, {"a": torch.arange(100_000.0)}, **IDENTITY)


def test_a_file_that_is_not_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / "training.pt", **IDENTITY) is None


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_flipped_bit_anywhere_is_noticed(share: float, tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    write(path)
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="it is damaged"):
        read_checkpoint(path, **IDENTITY)


@pytest.mark.parametrize("length", [0, 31, 1000, -1])
def test_a_torn_file_is_noticed(length: int, tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    write(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="it is damaged"):
        read_checkpoint(path, **IDENTITY)


def test_a_checkpoint_of_another_run_version_or_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "training.pt"
    write(path)
    with pytest.raises(CheckpointError, match="it is of another run, 'lora-s0-abc'"):
        read_checkpoint(path, run_id="lora-s1-abc", conditions=IDENTITY["conditions"])
    with pytest.raises(CheckpointError, match="it was made with torch 2, not 3; device none, not cpu"):
        read_checkpoint(path, run_id="lora-s0-abc", conditions={"torch": "3", "device": "cpu"})
    monkeypatch.setattr(checkpoints, "FORMAT_VERSION", 99)
    with pytest.raises(CheckpointError, match="it has format version 1, not 99"):
        read_checkpoint(path, **IDENTITY)


def test_reading_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "made by reading"),)

    path = tmp_path / "training.pt"
    write_checkpoint(path, {"a": Evil()}, **IDENTITY)
    with pytest.raises(CheckpointError, match="it is damaged"):
        read_checkpoint(path, **IDENTITY)
    assert [p.name for p in tmp_path.iterdir()] == ["training.pt"]


@pytest.mark.parametrize("room", [0, 1000, 300_000, 401_000])
def test_a_full_disk_leaves_the_checkpoint_before_and_no_half_file(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "training.pt"
    write(path)
    before = path.read_bytes()
    real = checkpoints.replacing

    @contextmanager
    def on_a_small_disk(path: Path) -> Iterator[Any]:
        with real(path) as file:
            yield Small(file)

    class Small:
        def __init__(self, file: Any) -> None:
            self.file, self.left = file, room

        def write(self, data: Any) -> int:
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return int(self.file.write(data))

        def flush(self) -> None:
            self.file.flush()

    monkeypatch.setattr(checkpoints, "replacing", on_a_small_disk)
    with pytest.raises(CheckpointError, match="No space left on device"):
        write(path)
    assert [p.name for p in tmp_path.iterdir()] == ["training.pt"]
    assert path.read_bytes() == before
