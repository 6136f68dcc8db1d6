"""A backbone's linear layers -> bitsandbytes' layers of 4 or 8 bits; on ``meta``, what stands for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from peprof_methods.errors import UnsupportedModelError
from peprof_methods.roles import head_parameters
from torch import nn
from transformers import PreTrainedModel

from peprof.errors import Fault
from peprof.suite.schema import ModelConfig, Quantization, TrainConfig
from peprof.training.quantised_on_meta import Linear4bitOnMeta, Linear8bitOnMeta
from peprof.training.quiet import errors_alone

OUTLIER_THRESHOLD = 6.0
"""Columns of an 8-bit layer's input with a larger number are multiplied as they are: the paper's, and that of
transformers."""
OLDEST = (0, 50)
"""bitsandbytes' version, as in pyproject.toml; what stands for its layers was written after that one."""
INSTALL = "pip install 'peprof[quantized]'"


def bitsandbytes_version() -> str | None:
    """Of what is installed; ``None`` where it isn't."""
    try:
        return version("bitsandbytes")
    except PackageNotFoundError:
        return None


def missing_library(key: str, what: str, *, instead: str) -> Fault | None:
    """What is wrong where bitsandbytes isn't installed or is too old; ``None`` where it is as needed.

    Args:
        key: of the suite, that asks for it.
        what: is asked for, in words.
        instead: the key's value that does without.
    """
    installed = bitsandbytes_version()
    if installed is not None and _numbers(installed) >= OLDEST:
        return None
    oldest = ".".join(map(str, OLDEST))
    lacking = "which isn't installed" if installed is None else f"of at least {oldest}, not {installed}"
    return Fault(
        key=key,
        problem=f"{what} needs bitsandbytes, {lacking}",
        expected=f"{INSTALL}; or '{instead}' here: peprof estimate and peprof fit tell the memory without it",
    )


def _numbers(version_text: str) -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)", version_text)
    return tuple(map(int, found.groups())) if found else ()


def refused_cast(model: ModelConfig, train: TrainConfig) -> Fault | None:
    """What is wrong with autocast over quantised layers; ``None`` where there isn't both.

    bitsandbytes' layers know nothing of autocast: their products are in another type than what stands for
    them on ``meta`` has, and those of 8 bits turn trained float32 biases into short ones.
    """
    if model.quantization is None or train.autocast is None:
        return None
    return Fault(
        key="train.autocast",
        problem=f"layers in {model.quantization} compute in model.dtype, and autocast to {train.autocast} "
        "would change that behind their back",
        expected=f"'none', with model.dtype = '{train.autocast}' to compute in that; or no quantization",
    )


def quiet_bitsandbytes() -> AbstractContextManager[None]:
    """Without the library's advice, which it gives for each of its kernels and casts."""
    return errors_alone("bitsandbytes")


def quantised_names(model: PreTrainedModel) -> Iterator[str]:
    """The linear layers that are quantised: all but the task's head, an output layer, and what stays float32.

    As transformers chooses them, except that it quantises all layers of a head but the last; here a head is
    trained.
    """
    apart = {id(parameter) for parameter in _head(model)}
    untyped: Any = model
    for found in (untyped.get_output_embeddings(), untyped.get_input_embeddings()):
        apart |= (
            {id(parameter) for parameter in found.parameters()} if isinstance(found, nn.Module) else set()
        )
    precise = set(model._keep_in_fp32_modules or ())
    for name, module in model.named_modules():
        plain = type(module) is nn.Linear and id(module.weight) not in apart
        if plain and not precise & set(name.split(".")):
            yield name


def quantise_on_meta(model: PreTrainedModel, quantization: Quantization) -> None:
    """Puts layers without data in the place of those that are quantised.

    Args:
        model: on ``meta``; changed in place.
        quantization: in what.
    """
    for name in list(quantised_names(model)):
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        made = (
            Linear8bitOnMeta(linear)
            if quantization == "int8"
            else Linear4bitOnMeta(linear, double=quantization == "nf4")
        )
        model.set_submodule(name, made.train(linear.training))
    _say_so(model, quantization)


def quantise(model: PreTrainedModel, quantization: Quantization) -> None:
    """Puts bitsandbytes' layers in the place of those that are quantised.

    They hold the weights as they were until the model is moved to a device, be it the CPU: then each weight
    is quantised there, one after the other.

    Args:
        model: on the CPU; changed in place.
        quantization: in what.
    """
    for name in list(quantised_names(model)):
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        model.set_submodule(name, _layer(linear, quantization).train(linear.training))
    _say_so(model, quantization)


def _layer(linear: nn.Linear, quantization: Quantization) -> nn.Linear:
    bnb: Any = import_module("bitsandbytes")
    shape: Any = {
        "input_features": linear.in_features,
        "output_features": linear.out_features,
        "bias": False,
        "device": "meta",
    }
    made: Any
    if quantization == "int8":
        made = bnb.nn.Linear8bitLt(**shape, has_fp16_weights=False, threshold=OUTLIER_THRESHOLD)
        made.weight = bnb.nn.Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
        made.weight.dense_dtype = linear.weight.dtype
    else:
        double = quantization == "nf4"
        made = bnb.nn.Linear4bit(
            **shape, compute_dtype=linear.weight.dtype, compress_statistics=double, quant_type="nf4"
        )
        made.weight = bnb.nn.Params4bit(
            linear.weight.data, requires_grad=False, compress_statistics=double, quant_type="nf4", module=made
        )
        # What it would lay the weights out for in evaluation on a CPU has no backward to train on with.
        made.support_avx512bf16_for_cpu = False
    made.bias = linear.bias
    layer: nn.Linear = made
    return layer


def _say_so(model: PreTrainedModel, quantization: Quantization) -> None:
    """As transformers says it of a model that it has loaded so: ``peft`` chooses its layers by that."""
    told: Any = model
    told.is_loaded_in_8bit = quantization == "int8"
    told.is_loaded_in_4bit = quantization != "int8"


def _head(model: PreTrainedModel) -> list[nn.Parameter]:
    try:
        return head_parameters(model)
    except UnsupportedModelError:
        base = {id(parameter) for parameter in model.base_model.parameters()}
        return [parameter for parameter in model.parameters() if id(parameter) not in base]
