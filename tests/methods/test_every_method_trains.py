"""What must hold for every built-in method on every architecture, whoever wrote it.

A new method is found by its entry point and needs nothing here, unless its defaults don't fit the tiny
geometry (``SMALL_OPTIONS``) or it wants another learning rate (``LEARNING_RATES``).
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from peprof_methods.architectures import ARCHITECTURES
from peprof_methods.roles import head_parameters
from torch import Tensor, nn
from transformers import PreTrainedModel

from peprof.running.methods import enable_checkpointing
from peprof.suite.catalogue import known_methods
from tests.methods.method_geometries import EVERY_ARCHITECTURE, FAMILY, batch, gradients, scatter, tiny

SMALL_OPTIONS: dict[str, dict[str, Any]] = {
    # method, or method/variant for one more case of the same method -> options
    "sparse": {"density": 0.2},
    "sparse/fisher": {"count": 999, "select": "fisher", "examples": 6},
    "sparse/in each matrix": {"density": 0.1, "select": "fisher", "examples": 6, "scope": "matrix"},
    "sparse/smallest": {"density": 0.2, "select": "smallest", "targets": ["feedforward.up"]},
    "parameters/patterns": {"roles": ["embedding"], "patterns": ["*[nN]orm*.weight"]},
    "last_layers/2": {"count": 2},
    "lora/all": {
        "targets": ["attention.key", "attention.output", "feedforward.up", "feedforward.down"],
        "rank": 3,
    },
    "dora/dropout": {"dropout": 0.2, "targets": ["attention.output", "feedforward.down"]},
    "vera/dropout": {"dropout": 0.2, "targets": ["attention.key", "feedforward.up", "feedforward.down"]},
    "prompt_tuning": {"tokens": 3},
    "prompt_tuning/random": {"tokens": 3, "init": "random"},
    "houlsby/normalisations": {"bottleneck": 6, "layernorms": True, "activation": "silu"},
    "compacter/rank 2": {"bottleneck": 6, "n": 2, "rank": 2, "activation": "relu"},
    "lst": {"reduction": 4},
    "lst/dynamic": {"reduction": 4, "fusion": "dynamic", "embeddings_to_every_layer": True},
    "lst/attention": {"reduction": 4, "fusion": "attention", "fused_last_layers": 2, "downsample_rank": 3},
    "lst/pruned": {"reduction": 4, "init": "pruned", "importance_examples": 4},
    "lst/window": {"reduction": 2, "fusion": "window", "window": 3},
}
LEARNING_RATES: dict[str, float] = {
    "sparse": 2e-2,
    "layernorm": 1e-2,
    "ia3": 2e-2,
    "vera": 2e-2,
    "adalora": 1e-2,
    "prompt_tuning": 0.1,
    "p_tuning_v2": 3e-2,
}
"""Method or method/variant -> rate at which 30 steps are enough; 3e-3 for the others."""

VARIANTS_ON = ("bert", "t5", "llama-lm")
"""What a further case of a method is tried on: an encoder, both with an encoder and a decoder, a decoder."""

FAMILIES = (
    *("whole model", "parts of the model", "low rank", "scaling", "side network", "inserted", "prompt"),
    *("selected entries", "library"),
)
REFUSALS = {*FAMILY.values(), *ARCHITECTURES}


class Case(NamedTuple):
    """A method with options that fit the tiny geometry."""

    name: str
    kind: type[Any]

    def make(self) -> Any:
        return _made(self.name)  # it is frozen

    def refusal(self, architecture: str) -> str | None:
        """Why the method says that it can't do this architecture."""
        unsupported: Mapping[str, str] = getattr(self.kind, "unsupported", {})
        by_class = unsupported.get(type(_cached(architecture)).__name__)
        return by_class or unsupported.get(FAMILY[architecture])


@cache
def _made(name: str) -> Any:
    return METHODS[name.partition("/")[0]].construct(SMALL_OPTIONS.get(name, {}))


@cache
def _cached(architecture: str) -> PreTrainedModel:
    return tiny(architecture, seed=30)


def plain(architecture: str) -> PreTrainedModel:
    """The same weights each time."""
    return copy.deepcopy(_cached(architecture))


def _found() -> tuple[dict[str, type[Any]], dict[str, Exception]]:
    kinds: dict[str, type[Any]] = {}
    broken: dict[str, Exception] = {}
    for name, entry in METHODS.items():
        try:
            kinds[name] = entry.load()
        except (ImportError, AttributeError, SyntaxError) as error:
            broken[name] = error  # reported by a test of its own, so that the others still run
    return kinds, broken


METHODS = {name: entry for name, entry in known_methods().items() if entry.distribution == "peprof"}
KINDS, BROKEN = _found()
CASES = [
    Case(name, KINDS[name.partition("/")[0]])
    for name in sorted({*KINDS, *SMALL_OPTIONS})
    if name.partition("/")[0] in KINDS
]
_EVERY = [
    (case, architecture)
    for case in CASES
    for architecture in (VARIANTS_ON if "/" in case.name else EVERY_ARCHITECTURE)
]


def _over(pairs: list[tuple[Case, str]]) -> Any:
    ids = [f"{case.name}-{architecture}" for case, architecture in pairs]
    return pytest.mark.parametrize(("case", "architecture"), pairs, ids=ids)


where_it_works = _over([pair for pair in _EVERY if pair[0].refusal(pair[1]) is None])
where_it_refuses = _over([pair for pair in _EVERY if pair[0].refusal(pair[1]) is not None])
where_it_merges = _over(
    [pair for pair in _EVERY if pair[0].refusal(pair[1]) is None and hasattr(pair[0].kind, "merge")]
)


def applied(case: Case, model: PreTrainedModel, architecture: str, *, seed: int = 5) -> tuple[Any, Any]:
    """The method, and what it made of the model; one that learns from data is given examples."""
    method = case.make()
    torch.manual_seed(seed)
    needed = method.examples_needed() if hasattr(method, "examples_needed") else 0
    if not needed:
        return method, method.apply(model)
    batches = [batch(architecture, seed=number) for number in range(math.ceil(needed / 4))]
    return method, method.apply_with_data(model, batches)


def evaluated(model: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
    """The output in evaluation mode; the mode that was is put back."""
    mode = model.training
    model.eval()
    with torch.no_grad():
        output = model(**inputs)
    model.train(mode)
    return output


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def assert_close(found: Tensor, expected: Tensor) -> None:
    """To 1e-5 of the largest value, or of 1."""
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found / scale, expected / scale, atol=1e-5, rtol=1e-5)


def test_every_method_can_be_imported() -> None:
    assert not BROKEN
    assert {name.partition("/")[0] for name in (*SMALL_OPTIONS, *LEARNING_RATES)} <= {*KINDS, *BROKEN}


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_says_what_it_is(case: Case) -> None:
    kind = case.kind
    assert kind.family in FAMILIES
    assert isinstance(kind.paper, str)
    assert not kind.paper or re.search(r"\b(19|20)\d\d\b", kind.paper), "authors, year, arXiv id"
    assert 0 < len(kind.trains) <= 60
    assert isinstance(kind.unsupported, Mapping)
    assert set(kind.unsupported) <= REFUSALS
    assert all(isinstance(reason, str) and reason for reason in kind.unsupported.values())
    case.make()


@where_it_refuses
def test_refuses_with_its_reason_and_changes_nothing(case: Case, architecture: str) -> None:
    model = plain(architecture)
    modules = {name: id(module) for name, module in model.named_modules()}
    parameters = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    reason = case.refusal(architecture)
    assert reason
    with pytest.raises(ValueError) as caught:
        applied(case, model, architecture)
    assert type(caught.value).__name__ == "UnsupportedModelError"
    assert reason in str(caught.value)
    assert {name: id(module) for name, module in model.named_modules()} == modules
    assert {name: (id(p), p.requires_grad) for name, p in model.named_parameters()} == parameters
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), plain(architecture).parameters(), strict=True)
    )


@where_it_works
def test_trains_what_it_says_and_nothing_else_and_learns(case: Case, architecture: str) -> None:
    inputs = batch(architecture)
    backbone = plain(architecture)
    head = {id(p) for p in head_parameters(backbone)}
    method, model = applied(case, backbone, architecture)
    assert head <= {id(p) for p in trainable(model).values()}
    rate = LEARNING_RATES.get(case.name, LEARNING_RATES.get(case.name.partition("/")[0], 3e-3))
    grouped: Callable[..., Any] | None = getattr(method, "parameter_groups", None)
    groups = grouped(model, rate, 0.0) if grouped else list(trainable(model).values())
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=0.0, fused=True)
    optimized = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(optimized) == sorted(id(p) for p in trainable(model).values())

    assert model.training
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    started = float(evaluated(model, inputs).loss)
    for step in range(30):
        loss = model(**inputs).loss
        if hasattr(method, "loss_term"):
            loss = loss + method.loss_term(model)
        loss.backward()
        if step in (0, 29):
            with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
            assert with_gradient == set(trainable(model))
        optimizer.step()
        if hasattr(method, "after_step"):
            method.after_step(model, step, 30)
        optimizer.zero_grad()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(trainable(model))
    assert float(evaluated(model, inputs).loss) < 0.9 * started


@where_it_works
def test_padding_changes_nothing(case: Case, architecture: str) -> None:
    model = applied(case, plain(architecture), architecture)[1]
    scatter(model)
    lengths = (9, 4, 6)
    inputs = batch(architecture, lengths=lengths)
    together = evaluated(model, inputs).logits
    for row, length in enumerate(lengths):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        for name in ("input_ids", "attention_mask", *(("labels",) if architecture == "llama-lm" else ())):
            alone[name] = alone[name][:, :length]
        found = evaluated(model, alone).logits[0]
        assert_close(found, together[row, :length] if architecture == "llama-lm" else together[row])
    assert (together[0] - together[1]).abs().max() > 1e-3  # the input does matter


@where_it_works
def test_bfloat16_runs(case: Case, architecture: str) -> None:
    model = applied(case, plain(architecture).to(torch.bfloat16), architecture)[1]
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    loss = model(**batch(architecture)).loss
    loss.backward()
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())
    assert gradients(model).keys() == trainable(model).keys()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_t5_in_float16_as_transformers_loads_it(case: Case) -> None:
    """One of its matrices stays in float32, and so do the states that go from layer to layer."""
    backbone = plain("t5-classifier").half()
    for name, module in backbone.named_modules():
        if name.endswith("DenseReluDense.wo"):
            module.float()
    inputs = batch("t5-classifier")
    model = applied(case, backbone, "t5-classifier")[1]
    if case.kind.family not in ("side network", "prompt"):  # which start as something else
        expected = evaluated(plain("t5-classifier"), inputs).logits
        torch.testing.assert_close(evaluated(model, inputs).logits.float(), expected, atol=0.05, rtol=0.05)
    model(**inputs).loss.backward()
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())
    assert gradients(model).keys() == trainable(model).keys()


@pytest.mark.slow
@where_it_works
def test_autocast_runs(case: Case, architecture: str) -> None:
    model = applied(case, plain(architecture), architecture)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**batch(architecture)).loss
    loss.backward()
    assert loss.isfinite()
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients(model).values())
    assert gradients(model).keys() == trainable(model).keys()


@where_it_works
def test_checkpointing_changes_no_gradient(case: Case, architecture: str) -> None:
    model = applied(case, plain(architecture), architecture)[1]
    scatter(model)

    def found() -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(8)  # a method may have dropout of its own
        loss = model(**batch(architecture)).loss
        loss.backward()
        grown = {name: gradient.clone() for name, gradient in gradients(model).items()}
        model.zero_grad()
        return loss.detach(), grown

    loss, expected = found()
    enable_checkpointing(model)
    checkpointed_loss, checkpointed = found()
    torch.testing.assert_close(checkpointed_loss, loss)
    assert checkpointed.keys() == expected.keys() == trainable(model).keys()
    for name, gradient in checkpointed.items():
        assert_close(gradient, expected[name])


@where_it_works
def test_what_is_saved_restores_the_model(case: Case, architecture: str) -> None:
    """Into a freshly applied model, whose new parameters started from another seed and saw no data."""
    inputs = batch(architecture)
    method, model = applied(case, plain(architecture), architecture)
    scatter(model)
    state = method.adapter_state(model) if hasattr(method, "adapter_state") else trainable(model)
    state = {name: value.detach().clone() for name, value in state.items()}
    assert set(trainable(model)) <= set(state)
    torch.manual_seed(6)
    fits = getattr(method, "apply_saved", None)  # where shapes follow from data
    again = fits(plain(architecture), state) if fits else method.apply(plain(architecture))
    assert not again.load_state_dict(state, strict=False).unexpected_keys
    assert torch.equal(evaluated(again, inputs).logits, evaluated(model, inputs).logits)


@where_it_works
def test_meta_has_the_same_parameters(case: Case, architecture: str) -> None:
    with torch.device("meta"):
        model = tiny(architecture)
    on_meta = case.make().apply(model)
    real = case.make().apply(plain(architecture))
    assert {p.device.type for p in on_meta.parameters()} == {"meta"}

    def shapes(model: nn.Module) -> list[tuple[str, torch.Size, torch.dtype, bool]]:
        return [(n, p.shape, p.dtype, p.requires_grad) for n, p in model.named_parameters()]

    assert shapes(on_meta) == shapes(real)


@where_it_merges
def test_merged_is_plain_and_gives_the_same_logits(case: Case, architecture: str) -> None:
    inputs, original = batch(architecture), plain(architecture)
    method, model = applied(case, plain(architecture), architecture)
    scatter(model)
    expected = evaluated(model, inputs).logits
    before = evaluated(original, inputs).logits
    assert (expected - before).abs().max() > 1e-3  # there is something to merge
    merged = method.merge(model)
    assert {type(m) for m in merged.modules()} <= {type(m) for m in original.modules()}
    assert merged.state_dict().keys() == original.state_dict().keys()
    assert_close(evaluated(merged, inputs).logits, expected)


@where_it_works
def test_evaluation_mode_is_kept(case: Case, architecture: str) -> None:
    model = case.make().apply(plain(architecture).eval())
    assert not any(module.training for module in model.modules())
