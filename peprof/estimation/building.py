"""A run's model, method, optimizer and batch, made without data: shapes and dtypes on ``meta``.

What is built is what ``Subject`` builds for a real run, with the same functions; here nothing has values, so
nothing is downloaded and models of any size are made in a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel

from peprof.errors import Fault, SuiteError
from peprof.estimation.kernels import Kind
from peprof.results.record import ParameterCounts
from peprof.running.methods import apply_method, make_method
from peprof.running.subject import make_step
from peprof.suite.metrics import Task
from peprof.suite.planning import RunSpec
from peprof.suite.schema import DataConfig, ModelConfig
from peprof.training.backbone import check_model, positions
from peprof.training.batches import Batch
from peprof.training.configurations import as_fault
from peprof.training.data import load_data
from peprof.training.embedded.pretraining import make_tokenizer
from peprof.training.embedded.tiny import RECIPE
from peprof.training.geometries import GEOMETRIES, geometry_name, near_geometry
from peprof.training.protocols import LearnsFromData
from peprof.training.quantised_on_meta import FUSED_ROWS, stand_for_kernels
from peprof.training.quantising import refused_cast
from peprof.training.quiet import no_progress_bars
from peprof.training.sources import EMBEDDED_MODEL, data_needs_hub, model_needs_hub
from peprof.training.step import ClassifierStep
from peprof.training.tasks import start_decoding
from peprof.training.trainer import planned_steps

ASSUMED_ROWS, ASSUMED_LABELS = 10_000, 2
NO_DATA = "any/data"
"""What stands for the data where a model is named and no suite."""


@dataclass(frozen=True, kw_only=True)
class KnownData:
    """What a step's memory depends on in the data.

    Args:
        num_labels: outputs of the head; 0 for a model that has none.
        rows: to train on; they decide how many steps are planned.
        assumptions: in words, where the data isn't here to be looked at.
    """

    num_labels: int
    rows: int
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BuiltOnMeta:
    """A training step without data, and its batch."""

    step: ClassifierStep
    batch: Batch
    config: PretrainedConfig
    counts: ParameterCounts
    owners: Mapping[str, str]
    architecture: str
    assumptions: tuple[str, ...]


def known_data(data: DataConfig, *, source: str, num_labels: int | None = None) -> KnownData:
    """What the data tells, where it is here; nothing is downloaded.

    Args:
        data: of a run.
        source: the suite's file, for messages.
        num_labels: classes of data that isn't here; ``None`` where nobody has said.

    Raises:
        SuiteError: the data is here and wrong.
    """
    if not data_needs_hub(data):
        with no_progress_bars():
            facts = load_data(data, source=source).facts
        return KnownData(num_labels=facts.num_labels, rows=facts.train_rows)
    if data.task == "regression":
        return KnownData(num_labels=1, rows=ASSUMED_ROWS)
    if data.task != "classification":
        return KnownData(num_labels=0, rows=ASSUMED_ROWS)
    if num_labels is not None:
        return KnownData(num_labels=num_labels, rows=ASSUMED_ROWS)
    supposed = f"{ASSUMED_LABELS} classes, as {data.name} isn't here to be counted"
    if data.name == NO_DATA:
        supposed = f"{ASSUMED_LABELS} classes (--labels N says otherwise)"
    return KnownData(num_labels=ASSUMED_LABELS, rows=ASSUMED_ROWS, assumptions=(supposed,))


def without_download(model: ModelConfig, *, source: str) -> ModelConfig:
    """The model by its known geometry, where it could otherwise only come from the hub.

    Raises:
        SuiteError: its geometry isn't known, and its configuration isn't here.
    """
    if model_needs_hub(model):
        if geometry_name(model.name) is None:
            problem = f"the geometry of '{model.name}' isn't known, and its configuration isn't cached"
            expected = (
                f"a directory with its config.json, which is enough, or one of: {', '.join(GEOMETRIES)}"
            )
            near = near_geometry(model.name)
            raise SuiteError(
                source, [Fault(key="model.name", problem=problem, expected=expected, suggestion=near)]
            )
        return model.model_copy(update={"weights": "random"})
    directory = Path(model.name)
    if directory.is_dir() and model.name != EMBEDDED_MODEL:
        return model.model_copy(update={"weights": "random"})  # its configuration is enough
    return model


def build_on_meta(spec: RunSpec, data: KnownData, kind: Kind, *, source: str) -> BuiltOnMeta:
    """Makes what a run trains, without data.

    Args:
        spec: the run.
        data: what is known of its data.
        kind: of the device that it stands for: which operators its optimizer uses.
        source: the suite's file, for messages.

    Raises:
        SuiteError: the model isn't known here, can't do the task, or has too few positions; or autocast is
            asked for over quantised layers.
        ValueError: the method can't be applied to it.
    """
    cast = refused_cast(spec.model, spec.train)
    if cast is not None:
        raise SuiteError(source, [cast])
    model = _model(spec, data, source)
    start_decoding(model)
    if getattr(model.config, "use_cache", False):
        model.config.use_cache = False
    config, architecture = model.config, type(model).__name__
    method = make_method(spec.method)
    assumptions = list(data.assumptions)
    if isinstance(method, LearnsFromData) and method.examples_needed():
        assumptions.append("entries spread evenly, as which ones are chosen depends on the data")
    assumptions += _of_kernels(spec, kind)
    stand_for_kernels(model, kind)
    with torch.device("meta"):
        applied = apply_method(method, model, None)
        steps = planned_steps(spec.train, data.rows)
        # No schedule, which has no tensors and brings libraries along that look for GPUs.
        step = make_step(spec, method, applied.model, steps, scheduled=False)
    _choose_operators(step.optimizer, kind)
    return BuiltOnMeta(
        step=step,
        batch=meta_batch(spec, config),
        config=config,
        counts=applied.counts,
        owners=applied.owners,
        architecture=architecture,
        assumptions=tuple(assumptions),
    )


def _of_kernels(spec: RunSpec, kind: Kind) -> list[str]:
    """What is supposed of bitsandbytes' kernels, in words."""
    if spec.model.quantization is None or kind == "cpu":
        return []
    if spec.model.quantization == "int8":
        return ["inputs of 8-bit layers without outliers, as their number depends on the data"]
    length = spec.data.max_length
    if spec.data.task == "text-to-text":
        length = min(length, spec.data.max_target_length)  # a decoder's layers have fewer rows
    rows = spec.train.batch_size // spec.train.gradient_accumulation_steps * length
    if rows > FUSED_ROWS:
        return []
    return [
        f"each 4-bit layer makes its weight dense in forward, though for up to {FUSED_ROWS:,} rows a GPU may "
        "have a kernel that needn't"
    ]


def _model(spec: RunSpec, data: KnownData, source: str) -> PreTrainedModel:
    model = check_model(
        without_download(spec.model, source=source),
        num_labels=data.num_labels,
        max_length=spec.data.max_length,
        source=source,
        task=spec.data.task,
    )
    assert model is not None  # as it counts as fetched
    return model


def longest_length(spec: RunSpec, data: KnownData, *, source: str) -> int | None:
    """Tokens that a run's model has positions for; ``None`` where positions are relative.

    Raises:
        SuiteError: the model isn't known here or can't do the task.
    """
    return positions(_model(spec, data, source).config)


def _choose_operators(optimizer: torch.optim.Optimizer, kind: Kind) -> None:
    """On a GPU optimizers go over lists of parameters unless told otherwise, elsewhere over one by one."""
    for group in optimizer.param_groups:
        if group.get("foreach", True) is None and not group.get("fused"):
            group["foreach"] = kind == "cuda"


def meta_batch(spec: RunSpec, config: PretrainedConfig) -> Batch:
    """A batch as the short phase has it, padded to the longest length, without data.

    Args:
        spec: the run: its task, batch and lengths.
        config: of the model.

    Raises:
        SuiteError: the model's tokenizer can't be loaded.
    """
    batch, length = spec.train.batch_size, spec.data.max_length
    label_shapes = {
        "classification": (batch,),
        "regression": (batch,),
        "text-to-text": (batch, spec.data.max_target_length),
        "language-modelling": (batch, length),
    }
    dtype = torch.int64
    if spec.data.task == "regression":
        dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    inputs = {
        name: torch.empty(batch, length, dtype=torch.int64, device="meta")
        for name in input_names(spec.model, config, spec.data.task)
    }
    inputs["labels"] = torch.empty(label_shapes[spec.data.task], dtype=dtype, device="meta")
    return Batch(inputs=inputs, real_tokens=batch * length)


def input_names(model: ModelConfig, config: PretrainedConfig, task: Task) -> Sequence[str]:
    """What the model's tokenizer gives beside the labels; what a made one gives for random weights.

    Raises:
        SuiteError: the tokenizer can't be loaded.
    """
    plain = ("input_ids", "attention_mask")
    directory = Path(model.name)
    if model.name == EMBEDDED_MODEL and model.weights == "pretrained":
        return tuple(make_tokenizer(RECIPE.max_positions).model_input_names)
    if (directory / "tokenizer_config.json").is_file() or (
        model.weights == "pretrained" and _is_cached(model.name)
    ):
        with as_fault(model, model.name, task):
            made: Any = AutoTokenizer.from_pretrained(
                model.name, revision=model.revision, trust_remote_code=False
            )
        return tuple(made.model_input_names)
    if model.weights == "pretrained" and config.model_type == "bert":
        return (plain[0], "token_type_ids", plain[1])
    return plain


def _is_cached(name: str) -> bool:
    try:
        return isinstance(huggingface_hub.try_to_load_from_cache(name, "tokenizer_config.json"), str)
    except huggingface_hub.errors.HFValidationError:
        return False
