"""Which layers are quantised, and the bytes of them and of 8-bit states: bitsandbytes', the stand-ins'."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peprof_methods.roles import head_parameters
from torch import nn
from transformers import (
    BertForSequenceClassification,
    DistilBertForSequenceClassification,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    T5ForConditionalGeneration,
)

from peprof.devices.quantised import parts_of_quantised
from peprof.estimation.quantised import STATE_TABLES_BYTES, int8_bytes, nf4_bytes, state_bytes
from peprof.profiler.inference import _model_bytes
from peprof.suite.schema import TrainConfig
from peprof.training import quantising
from peprof.training.optimizers import check_training, make_optimizer
from peprof.training.quantised_on_meta import Linear8bitOnMeta, stand_for_kernels
from peprof.training.quantising import (
    missing_library,
    quantise,
    quantise_on_meta,
    quantised_names,
    quiet_bitsandbytes,
)
from peprof.training.step import ClassifierStep
from tests.estimation.small_models import CONFIGS

KINDS: dict[str, Any] = {
    "llama": LlamaForCausalLM,
    "t5": T5ForConditionalGeneration,
    "bert": BertForSequenceClassification,
    "distilbert": DistilBertForSequenceClassification,
}
SHAPES = [(64, 64), (256, 96), (30, 20), (1000, 333)]


def on_meta(name: str) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = KINDS[name](CONFIGS[name])
    return model


@pytest.mark.parametrize("name", KINDS)
def test_the_layers_are_those_of_transformers(name: str) -> None:
    """But for a head's layers before its last, which are trained here."""
    bnb = pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig
    from transformers.integrations import replace_with_bnb_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    theirs = on_meta(name)
    kept = [*get_keys_to_not_convert(theirs), *(theirs._keep_in_fp32_modules or ())]
    replace_with_bnb_linear(theirs, kept, BitsAndBytesConfig(load_in_4bit=True))
    chosen = {n for n, module in theirs.named_modules() if isinstance(module, bnb.nn.Linear4bit)}
    ours = on_meta(name)
    head = {id(parameter) for parameter in head_parameters(ours)}
    of_head = {n for n, m in ours.named_modules() if isinstance(m, nn.Linear) and id(m.weight) in head}
    assert set(quantised_names(ours)) == chosen - of_head
    assert chosen - of_head


def test_head_output_and_embeddings_stay() -> None:
    with torch.device("meta"):
        model = LlamaForSequenceClassification(CONFIGS["llama"])
    assert len(list(quantised_names(model))) == 2 * 7
    assert "lm_head" not in set(quantised_names(on_meta("llama")))
    assert not any(name.endswith(".wo") for name in quantised_names(on_meta("t5")))


def beside(linear: nn.Linear) -> Iterator[tuple[str, torch.Tensor]]:
    model = nn.ModuleDict({"layer": linear})
    return parts_of_quantised(model)


def bytes_of(linear: nn.Linear) -> int:
    """Of the weight and all that belongs to it, each storage once."""
    tensors = [linear.weight, *(part for _, part in beside(linear))]
    sizes = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(sizes.values())


def expected_bytes(shape: tuple[int, int], quantization: str) -> int:
    if quantization == "int8":
        return int8_bytes(*shape)
    return nf4_bytes(shape[0] * shape[1], double=quantization == "nf4")


class OneLayer(PreTrainedModel):
    config_class = PretrainedConfig

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype) -> None:
        super().__init__(PretrainedConfig(attn_implementation="eager"))
        self.layer = nn.Linear(shape[1], shape[0], dtype=dtype)

    def get_input_embeddings(self) -> None:  # type: ignore[override]
        return None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantization", ["nf4", "nf4-single", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_layer_on_meta_has_the_bytes_of_the_formula(
    shape: tuple[int, int], quantization: Any, dtype: torch.dtype
) -> None:
    with torch.device("meta"):
        model = OneLayer(shape, dtype)
    quantise_on_meta(model, quantization)
    assert bytes_of(model.layer) == expected_bytes(shape, quantization)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantization", ["nf4", "nf4-single", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_layer_of_bitsandbytes_has_the_bytes_of_the_formula(
    shape: tuple[int, int], quantization: Any, dtype: torch.dtype
) -> None:
    pytest.importorskip("bitsandbytes")
    model = OneLayer(shape, dtype)
    quantise(model, quantization)
    model.to("cpu")  # type: ignore[arg-type] # quantises
    assert bytes_of(model.layer) == expected_bytes(shape, quantization)
    model.layer(torch.ones(2, 3, shape[1], dtype=dtype))  # in which 8 bits change hands
    assert bytes_of(model.layer) == expected_bytes(shape, quantization)


def states(name: Any, sizes: list[int], device: str) -> int:
    """Bytes of an optimizer's states after a step, each storage once."""
    parameters = [nn.Parameter(torch.ones(size, device=device)) for size in sizes]
    optimizer = make_optimizer(TrainConfig(optimizer=name), [{"params": parameters, "weight_decay": 0.0}])
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    tensors = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    found = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(found.values())


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("name", "number"), [("adamw-8bit", 2), ("lion-8bit", 1)])
def test_states_of_8_bits_have_the_bytes_of_the_formula(name: str, number: int, device: str) -> None:
    if device == "cpu":
        pytest.importorskip("bitsandbytes")
    sizes = [4095, 4096, 5000, 12]
    formula = sum(state_bytes(size, states=number, bits=8) for size in sizes)
    assert states(name, sizes, device) == formula + number * STATE_TABLES_BYTES // 2
    assert states(name, [4095, 12], device) == 4 * number * (4095 + 12)


def test_their_options_are_checked() -> None:
    config = TrainConfig(optimizer="adamw-8bit", optimizer_options={"amsgrad": True})
    faults = [f.key for f in check_training(config, "float32")]
    assert "train.optimizer_options.amsgrad" in faults


@pytest.mark.parametrize("options", [{"betas": (0.8, 0.9)}, {"eps": 1e-6}, {"min_8bit_size": 100}])
def test_what_may_be_given_bitsandbytes_takes(options: dict[str, Any]) -> None:
    pytest.importorskip("bitsandbytes")
    assert check_training(TrainConfig(optimizer="adamw-8bit", optimizer_options=options), "float32") == []


@pytest.mark.parametrize(
    ("installed", "lacking"),
    [(None, "which isn't installed"), ("0.49.2", "of at least 0.50, not 0.49.2"), ("odd", "not odd")],
)
def test_where_the_library_is_missing_or_old_one_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, installed: str | None, lacking: str
) -> None:
    monkeypatch.setattr(quantising, "bitsandbytes_version", lambda: installed)
    (fault,) = check_training(TrainConfig(optimizer="lion-8bit"), "float32")
    assert str(fault).startswith("train.optimizer: 'lion-8bit' needs bitsandbytes, ")
    assert lacking in fault.problem
    assert fault.expected == (
        "pip install 'peprof[quantized]'; or 'adamw' here: peprof estimate and peprof fit tell the memory "
        "without it"
    )
    assert TrainConfig(optimizer="adamw").optimizer in str(fault)


def test_versions_from_the_oldest_on_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for installed in ("0.50.0", "0.50.3.dev0", "0.101.0", "1.0"):
        monkeypatch.setattr(quantising, "bitsandbytes_version", lambda found=installed: found)
        assert missing_library("a", "b", instead="c") is None


@pytest.mark.parametrize("name", ["adamw", "adamw-8bit"])
def test_where_nothing_is_trained_torch_says_so(name: Any) -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        make_optimizer(TrainConfig(optimizer=name), [])
    make_optimizer(TrainConfig(optimizer=name), [{"params": []}])  # which torch takes


@pytest.mark.parametrize("name", ["adamw", "adamw-8bit"])
def test_parameters_may_be_a_generator_or_one_tensor(name: Any) -> None:
    weight = nn.Parameter(torch.empty(3, 2, device="meta"))
    for params in ((p for p in [weight]), weight):
        optimizer = make_optimizer(TrainConfig(optimizer=name), [{"params": params}])
        assert [id(p) for group in optimizer.param_groups for p in group["params"]] == [id(weight)]


@pytest.mark.parametrize("quantization", ["nf4", "nf4-single", "int8"])
def test_what_belongs_to_weights_lives_from_step_to_step(quantization: Any) -> None:
    with torch.device("meta"):
        model = OneLayer((256, 96), torch.float32)
    quantise_on_meta(model, quantization)
    step = ClassifierStep(model, torch.optim.SGD([model.layer.bias], lr=0.1))
    resident = sum(tensor.untyped_storage().nbytes() for tensor in step.resident_tensors())
    assert resident == expected_bytes((256, 96), quantization) + 4 * 256
    assert _model_bytes(model) == resident


def test_a_gpus_product_in_8_bits_keeps_its_input_for_a_gradient_alone() -> None:
    """As ``MatMul8bitLt``; ``MatMul8bitFp`` of a CPU keeps it in any case."""
    for kind, needs, kept in (
        ("cuda", False, False), ("cuda", True, True), ("cpu", False, True), ("cpu", True, True)
    ):  # fmt: skip
        layer = Linear8bitOnMeta(nn.Linear(8, 4, device="meta"))
        stand_for_kernels(layer, kind)  # type: ignore[arg-type]
        result = layer(torch.empty(3, 8, device="meta", requires_grad=needs) * 1)
        given: Any = result.grad_fn
        while not hasattr(given, "input"):
            given = given.next_functions[0][0]
        assert (given.input is not None) == kept
        result.sum().backward()
        assert layer.bias.grad is not None


def test_the_library_is_quiet_for_a_while_alone() -> None:
    logger = logging.getLogger("bitsandbytes")
    before = logger.level
    with quiet_bitsandbytes():
        assert logger.level == logging.ERROR
    assert logger.level == before
    check_training(TrainConfig(optimizer="lion-8bit"), "float32")
    assert logger.level == before
