"""The methods beside their namesakes in the ``peft`` library: DistilBERT, batch 32 of 64 tokens, CPU.

Both are measured in one run and in turn, in one thread: ratios count, seconds depend on the machine. Both
train the same parameters of the same model, head included. The quick mode takes a quarter of the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import peft
import pytest
import torch
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from peprof import profile_step
from peprof.profiler.latency import garbage_collection_off
from peprof.suite.catalogue import known_methods

TIME_LIMIT = 1.02
QUICK_TIME_LIMIT = 1.25
"""Where only a few rounds are measured: there only a gross fault fails."""

MEMORY_LIMIT = 1.00001
"""Not more, but for a few hundred indices: prompt tuning keeps the positions that its prompt moves."""

SIX = ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2")
ROLES = (
    *(f"attention.{name}" for name in ("query", "key", "value", "output")),
    "feedforward.up",
    "feedforward.down",
)
PAIRS: dict[str, tuple[str, dict[str, Any], Callable[[], Any]]] = {
    "LoRA q,v": (
        "lora",
        {"rank": 8},
        lambda: peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_lin", "v_lin"]),
    ),
    "LoRA all, dropout": (
        "lora",
        {"rank": 8, "dropout": 0.1, "targets": ROLES},
        lambda: peft.LoraConfig(r=8, lora_alpha=16, lora_dropout=0.1, target_modules=list(SIX)),
    ),
    "DoRA q,v": (
        "dora",
        {"rank": 8},
        lambda: peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_lin", "v_lin"], use_dora=True),
    ),
    "(IA)3": (
        "ia3",
        {},
        lambda: peft.IA3Config(target_modules=["k_lin", "v_lin", "lin2"], feedforward_modules=["lin2"]),
    ),
    "VeRA q,v": (
        "vera",
        {"rank": 256},
        lambda: peft.VeraConfig(r=256, target_modules=["q_lin", "v_lin"]),
    ),
    "prompt tuning": (
        "prompt_tuning",
        {"tokens": 20},
        lambda: peft.PromptTuningConfig(
            task_type="SEQ_CLS", num_virtual_tokens=20, num_layers=6, token_dim=768, num_attention_heads=12
        ),
    ),
    "LayerNorm": (
        "layernorm",
        {},
        lambda: peft.LNTuningConfig(target_modules=["sa_layer_norm", "output_layer_norm", "LayerNorm"]),
    ),
}


def backbone() -> DistilBertForSequenceClassification:
    torch.manual_seed(0)
    return DistilBertForSequenceClassification(DistilBertConfig()).train()


def ours(name: str, options: dict[str, Any]) -> nn.Module:
    model: nn.Module = known_methods()[name].construct(options).apply(backbone())
    return model


def theirs(config: Any) -> nn.Module:
    model: nn.Module = peft.get_peft_model(backbone(), config)
    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):  # it holds a second copy of the head: measure without
            model.set_submodule(name, module.modules_to_save["default"])
    for name, parameter in model.named_parameters():
        if "classifier" in name:
            parameter.requires_grad_(True)
    return model.train()


def batch(rows: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 1000, (rows, 64), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(rows) % 2}


def measure(models: dict[str, nn.Module], *, rows: int, rounds: int) -> dict[str, tuple[float, int]]:
    """Median seconds of a step and bytes of its peak, the models in turn; time is the thread's own."""
    inputs = batch(rows)
    optimizers = {
        name: torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, foreach=True)
        for name, model in models.items()
    }

    def step(name: str) -> float:
        begin = time.thread_time()
        models[name](**inputs).loss.backward()
        optimizers[name].step()
        optimizers[name].zero_grad()
        return time.thread_time() - begin

    peaks = {
        name: profile_step(model, inputs, optimizers=optimizers[name], warmup_steps=1).peak_bytes
        for name, model in models.items()
    }
    times: dict[str, list[float]] = {name: [] for name in models}
    with garbage_collection_off():
        for number in range(rounds):
            for name in models if number % 2 == 0 else reversed(models):
                times[name].append(step(name))
    return {name: (median(times[name]), peaks[name]) for name in models}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_method_beside_its_namesake(pair: str, benchmark: Any, quick: bool, note_ratio: Any) -> None:
    name, options, config = PAIRS[pair]
    models = {"ours": ours(name, options), "peft": theirs(config())}
    trained = {key: sum(p.numel() for p in m.parameters() if p.requires_grad) for key, m in models.items()}
    assert trained["ours"] == trained["peft"]
    size = {"rows": 8, "rounds": 3} if quick else {"rows": 32, "rounds": 9}
    found = benchmark.pedantic(measure, (models,), size, rounds=1)
    (our_s, our_bytes), (their_s, their_bytes) = found["ours"], found["peft"]
    benchmark.extra_info |= {
        "time_ratio": our_s / their_s,
        "memory_ratio": our_bytes / their_bytes,
        "step_ms": our_s * 1e3,
        "peft_step_ms": their_s * 1e3,
        "peak_bytes": our_bytes,
        "peft_peak_bytes": their_bytes,
    }
    note_ratio(f"{pair}: step by peft's", our_s / their_s, "time")
    note_ratio(f"{pair}: peak by peft's", our_bytes / their_bytes, "memory")
    print(
        f"\n{pair}: step {our_s * 1e3:.0f} ms against {their_s * 1e3:.0f} ms ({our_s / their_s:.3f}), "
        f"peak {our_bytes / 2**20:.1f} MiB against {their_bytes / 2**20:.1f} MiB "
        f"({our_bytes / their_bytes:.3f})"
    )
    assert our_bytes <= MEMORY_LIMIT * their_bytes
    assert our_s <= (QUICK_TIME_LIMIT if quick else TIME_LIMIT) * their_s
