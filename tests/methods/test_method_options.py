"""Options, roles and what is said when they are wrong."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from peprof_methods import UnknownRoleError, UnsupportedModelError
from peprof_methods.bitfit import BitFit
from peprof_methods.head import Head
from peprof_methods.ia3 import IA3
from peprof_methods.last_layers import LastLayers
from peprof_methods.lora import LoRA
from peprof_methods.lst import LadderSideTuning
from peprof_methods.roles import head_parameters, layers, modules_by_role
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from peprof.suite.catalogue import known_methods
from tests.methods.method_geometries import ARCHITECTURES, names_of, tiny

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
ENTRY_POINTS = PROJECT["project"]["entry-points"]["peprof.methods"]


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (LoRA, {"rank": 0}, "rank=0: expected at least 1"),
        (LoRA, {"alpha": -1.0}, "alpha=-1.0: expected a positive number"),
        (LoRA, {"dropout": 1.0}, "dropout=1.0: expected at least 0 and below 1"),
        (LoRA, {"targets": ()}, "targets=(): expected a list of one or more different roles"),
        (
            LoRA,
            {"targets": ("attention.key", "attention.key")},
            "targets=('attention.key', 'attention.key'): expected a list of one or more different roles",
        ),
        (
            LoRA,
            {"targets": "attention.key"},
            "targets='attention.key': expected a list of one or more different roles",
        ),
        (
            LoRA,
            {"targets": ("attention.qeury",)},
            "targets: unknown role 'attention.qeury'; expected one of attention.query, attention.key, "
            "attention.value, attention.output, feedforward.up, feedforward.gate, feedforward.down. "
            "Did you mean 'attention.query'?",
        ),
        (
            LoRA,
            {"targets": ("layernorm",)},
            "targets: unknown role 'layernorm'; expected one of attention.query, attention.key, "
            "attention.value, attention.output, feedforward.up, feedforward.gate, feedforward.down",
        ),
        (LastLayers, {"count": 0}, "count=0: expected at least 1"),
        (LadderSideTuning, {"reduction": 0}, "reduction=0: expected at least 1"),
        (LadderSideTuning, {"side_heads": 0}, "side_heads=0: expected at least 1, or none"),
        (LadderSideTuning, {"temperature": 0.0}, "temperature=0.0: expected a positive number"),
        (LadderSideTuning, {"dropout": -0.1}, "dropout=-0.1: expected at least 0 and below 1, or none"),
    ],
)
def test_a_wrong_value_names_option_value_and_expectation(
    method: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        method(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (LastLayers(count=3), "count=3: expected at most the model's 2 layers"),
        (LadderSideTuning(reduction=5), "reduction=5: expected a divisor of the backbone's hidden_size, 32"),
        (
            LadderSideTuning(side_heads=3),
            "side_heads=3: expected a divisor of the side width 4, found 3 heads; "
            "the backbone's width is divided by reduction=8",
        ),
        (
            LadderSideTuning(reduction=16),
            "side_heads=None: expected a divisor of the side width 2, found 4 heads; "
            "the backbone's width is divided by reduction=16",
        ),
    ],
)
def test_a_value_that_does_not_fit_the_model(method: Any, message: str) -> None:
    model = tiny("bert")
    with pytest.raises(ValueError) as caught:
        method.apply(model)
    assert str(caught.value) == message
    assert all(p.requires_grad for p in model.parameters())  # refused before anything was changed


# Full fine-tuning needs no roles: it works on any architecture.
ALL = [Head(), LastLayers(), BitFit(), LoRA(), IA3(), LadderSideTuning()]


@pytest.mark.parametrize("method", ALL, ids=lambda m: type(m).__name__)
def test_other_architectures_are_refused(method: Any) -> None:
    masked = BertForMaskedLM(
        BertConfig(
            vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
        )
    )
    for model in (masked, nn.Linear(2, 2)):
        with pytest.raises(UnsupportedModelError) as caught:
            method.apply(model)
        assert str(caught.value).startswith(
            f"{type(model).__name__} is not supported: expected DistilBert, Bert, Roberta, T5, "
        )
        assert all(p.requires_grad for p in model.parameters())


def test_an_adapter_is_not_silently_replaced_by_another() -> None:
    model = LoRA().apply(tiny("bert"))
    with pytest.raises(
        UnsupportedModelError, match=r"self\.query is of type LoRALinear: expected torch\.nn\.Linear"
    ):
        LoRA().apply(model)
    with pytest.raises(
        UnsupportedModelError,
        match=r"has no feedforward\.gate: expected one of attention\.query, ",
    ):
        LoRA(targets=("feedforward.gate",)).apply(tiny("bert"))


def test_a_subclass_is_its_architecture() -> None:
    plain = tiny("bert")
    plain.__class__ = type("Mine", (type(plain),), {})
    assert len(head_parameters(plain)) == 4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_modules_by_role(architecture: str) -> None:
    model = tiny(architecture)
    for role in ("attention.query", "attention.output", "feedforward.up", "feedforward.down"):
        assert list(modules_by_role(model, [role])) == names_of(architecture, role)
    norms = modules_by_role(model, ["layernorm"])
    assert set(norms) == {n for n, m in model.named_modules() if isinstance(m, nn.LayerNorm)}
    embeddings = modules_by_role(model, ["embedding"])
    assert set(embeddings) == {n for n, m in model.named_modules() if isinstance(m, nn.Embedding)}
    assert modules_by_role(model, ["feedforward.gate"]) == {}
    assert len(layers(model)) == 2
    with pytest.raises(UnknownRoleError) as caught:
        modules_by_role(model, ["heads"])
    assert caught.value.suggestion == "head"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_has_exactly_one_role(architecture: str) -> None:
    model = tiny(architecture)
    roles = [
        *("attention.query", "attention.key", "attention.value", "attention.output"),
        *("feedforward.up", "feedforward.down", "layernorm", "embedding", "head"),
    ]
    found = [id(p) for role in roles for m in modules_by_role(model, [role]).values() for p in m.parameters()]
    assert sorted(found) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("target", ENTRY_POINTS.values(), ids=ENTRY_POINTS.keys())
def test_options_can_be_read_without_importing(target: str) -> None:
    """Annotations are simple, defaults literal and those of run time, and each option is documented."""
    method = EntryPoint("method", target, "peprof.methods").load()
    (entry,) = [entry for entry in known_methods().values() if entry.value == target]
    assert entry.complete
    assert {option.name: option.default for option in entry.options} == vars(method())
    for option in entry.options:
        assert option.default_known and option.type is not Any
        assert option.meaning
    with pytest.raises(AttributeError):
        method().anything = 1  # frozen
    with pytest.raises(TypeError):
        method(1)  # by keyword only


def test_the_package_itself_does_not_import_torch() -> None:
    code = "import sys, peprof_methods; print('torch' in sys.modules)"
    path = str(Path(__file__).parents[2] / "methods")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    assert done.stdout.strip() == "False"


def test_a_list_from_json_is_as_good_as_a_tuple() -> None:
    assert LoRA(targets=["attention.key"]) == LoRA(targets=("attention.key",))  # type: ignore[arg-type]
