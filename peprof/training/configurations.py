"""A model's configuration: looked at before anything is built of it, and its faults in words of our own."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import transformers
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from peprof.devices import as_out_of_memory
from peprof.errors import Fault, PeprofError, SuiteError
from peprof.suite.describing import show
from peprof.suite.metrics import Task
from peprof.suite.schema import ModelConfig
from peprof.training.embedded import tiny
from peprof.training.geometries import geometry_name, known_config
from peprof.training.sources import EMBEDDED_MODEL
from peprof.training.tasks import WANTED_MODELS

CONFIG_FILE = "config.json"
MODEL_KEY = "model.name"
_LONGEST_CAUSE = 400
_LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
_SIZES = (
    "hidden_size", "dim", "d_model", "n_embd", "num_attention_heads", "num_heads", "n_heads", "n_head",
    "num_key_value_heads", "head_dim", "d_kv", "intermediate_size", "hidden_dim", "d_ff", "vocab_size",
    "max_position_embeddings", "n_positions",
)  # fmt: skip
_MOST_LAYERS, _MOST = 10_000, 2**31
"""More than any model has: what is above would be built for hours, or overflow."""


@contextmanager
def as_fault(config: ModelConfig, source: str, task: Task) -> Iterator[None]:
    """Turns what the libraries say of a model into a fault of the suite.

    Libraries read a configuration as code reads its own variables: what they raise of a wrong one is whatever
    the first use of it raises, a ``ZeroDivisionError`` as well as a validation's own.

    Raises:
        SuiteError: anything but a lack of memory, and errors of our own, was raised within.
    """
    try:
        yield
    except PeprofError:
        raise
    except Exception as error:
        if as_out_of_memory(error) is not None:
            raise
        raise SuiteError(source, [_load_fault(config, error, task)]) from error


def read_configuration(config: ModelConfig, *, source: str, task: Task) -> PretrainedConfig:
    """The model's configuration, with the classes that it has itself; code that comes with it isn't run.

    Args:
        config: the model.
        source: the suite's file, for messages.
        task: what the model is for, for messages.

    Raises:
        SuiteError: there is none, or it is of no model that can be made.
    """
    if config.name == EMBEDDED_MODEL:
        return tiny.tiny_config(num_labels=2)
    if config.weights == "random" and geometry_name(config.name) is not None:
        return known_config(config.name)
    file = _config_file(config)
    if file is not None:
        faults = _faults_of(file, task)
        if faults:
            raise SuiteError(source, faults)
    with as_fault(config, source, task):
        found = AutoConfig.from_pretrained(config.name, revision=config.revision, trust_remote_code=False)
    assert isinstance(found, PretrainedConfig)
    return found


def _config_file(config: ModelConfig) -> Path | None:
    """Where it lies or should; ``None`` where that isn't here."""
    directory = Path(config.name)
    if directory.is_dir():
        return directory / CONFIG_FILE
    try:
        cached = huggingface_hub.try_to_load_from_cache(config.name, CONFIG_FILE, revision=config.revision)
    except huggingface_hub.errors.HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None


def _faults_of(file: Path, task: Task) -> list[Fault]:
    """What can be seen of a configuration without building anything of it."""
    if not file.is_file():
        problem = f"there is no {CONFIG_FILE} in {file.parent}"
        return [Fault(key=MODEL_KEY, problem=problem, expected="a saved model's directory, or a known name")]
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        return [Fault(key=MODEL_KEY, problem=f"{file} is not JSON: {error}")]
    if not isinstance(values, dict):
        return [Fault(key=MODEL_KEY, problem=f"{file} holds {show(values)}", expected="a table of values")]
    architecture = _architecture_fault(file, values, task)
    return [architecture] if architecture is not None else _size_faults(file, values)


def _architecture_fault(file: Path, values: Mapping[str, Any], task: Task) -> Fault | None:
    kind = values.get("model_type")
    if kind in (None, "") and "auto_map" not in values:
        problem = f"{file} doesn't say what it is of"
        return Fault(key=MODEL_KEY, problem=problem, expected='a model_type, such as "model_type": "bert"')
    if isinstance(kind, str) and kind in CONFIG_MAPPING:
        return None  # transformers' own code is what runs, whatever else comes with the model
    if "auto_map" in values:
        return _own_code_fault(str(file), task)
    problem = f"{file}: transformers {transformers.__version__} knows no architecture {show(kind)}"
    return Fault(key=MODEL_KEY, problem=problem, expected=WANTED_MODELS[task])


def _own_code_fault(name: str, task: Task) -> Fault:
    return Fault(
        key=MODEL_KEY,
        problem=f"{name}: this model brings code of its own (auto_map), and peprof doesn't run such code",
        expected=WANTED_MODELS[task],
    )


def _size_faults(file: Path, values: Mapping[str, Any]) -> list[Fault]:
    """Sizes that no model can have; a list, as some architectures have for each layer, is left to them."""
    faults = []
    for key in (*_LAYERS, *_SIZES):
        value, most = values.get(key), _MOST_LAYERS if key in _LAYERS else _MOST
        if value is None or isinstance(value, list):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            expected = f"a whole number from 1 to {most:,}"
            faults.append(Fault(key=MODEL_KEY, problem=f"{file}: {key} is {show(value)}", expected=expected))
    return faults


def _load_fault(config: ModelConfig, error: Exception, task: Task) -> Fault:
    whole = " ".join(str(error).split())
    cause = textwrap.shorten(whole, _LONGEST_CAUSE, placeholder=" ...")
    if "trust_remote_code" in whole:
        return _own_code_fault(f"'{config.name}'", task)
    if any(word in cause for word in ("attn_implementation", "scaled_dot_product", "flash_attn", "Flash")):
        return Fault(
            key="model.attention",
            problem=f"'{config.attention}' can't be used with '{config.name}': {cause}",
            expected="eager works everywhere",
        )
    return Fault(
        key=MODEL_KEY,
        problem=f"'{config.name}' can't be loaded ({type(error).__name__}): {cause}",
        expected=WANTED_MODELS[task],
    )
