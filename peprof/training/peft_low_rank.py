"""VeRA and AdaLoRA in the ``peft`` library's names: see ``peft_forms``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peprof.errors import UsageError
from peprof.training.peft_forms import Saved, Trained, targets_of
from peprof.training.peft_lora import lora_config

_ADALORA_NAMES = {"lora_A": "lora_A", "lora_B": "lora_B", "lora_E": "lora_E"}
_VERA_NAMES = {"vera_lambda_b": "vera_b", "vera_lambda_d": "vera_d"}


class AdaLoRAForm:
    """``lora_E`` is (rank, 1); the library keeps pruned ranks out of its files, and says where they were."""

    trains = frozenset({"lora_A", "lora_B", "lora_E"})

    def write(self, trained: Trained) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See ``Form``. Ranks that were pruned are written, as zeros."""
        method = trained.method
        tensors = trained.renamed({name: name for name in _ADALORA_NAMES})
        columns = {n: tensor[:, None] if n.endswith("lora_E") else tensor for n, tensor in tensors.items()}
        config = lora_config(
            rank=8,  # ignored, with a warning where it isn't the default
            alpha=method.alpha,
            dropout=method.dropout,
            targets=targets_of(tensors, ["lora_E"]),
            init_r=method.initial_rank,
            target_r=method.target_rank,
            tinit=method.initial_steps,
            tfinal=method.final_steps,
            deltaT=method.interval_steps,
            beta1=method.beta1,
            beta2=method.beta2,
            orth_reg_weight=method.orthogonality_weight,
            total_step=method.initial_steps + method.final_steps + 1,  # over now; one is asked for
        )
        return {**config, "peft_type": "ADALORA"}, columns

    def method(self, saved: Saved) -> tuple[str, dict[str, Any]]:
        """See ``Form``."""
        saved.only(bias=("none",), fan_in_fan_out=(False,), layer_replication=(), use_dora=(False,))
        return "adalora", {
            "initial_rank": saved.option("init_r", 12),
            "target_rank": saved.option("target_r", 8),
            "alpha": float(saved.option("lora_alpha", 8)),
            "dropout": float(saved.option("lora_dropout", 0.0)),
            "targets": saved.roles(saved.by_module(_ADALORA_NAMES)),
            "initial_steps": saved.option("tinit", 0),
            "final_steps": saved.option("tfinal", 0),
            "interval_steps": saved.option("deltaT", 1),
            "beta1": saved.option("beta1", 0.85),
            "beta2": saved.option("beta2", 0.85),
            "orthogonality_weight": float(saved.option("orth_reg_weight", 0.5)),
        }

    def values(self, saved: Saved, applied: nn.Module) -> dict[str, Tensor]:
        """See ``Form``."""
        patterns = {
            name.removesuffix(".default").removesuffix(".lora_E"): kept
            for name, kept in saved.option("rank_pattern", {}).items()
        }
        values: dict[str, Tensor] = {}
        for module, own in saved.by_module(_ADALORA_NAMES).items():
            a, b, e = own["lora_A"], own["lora_B"], own["lora_E"].flatten()
            if module in patterns and len(e) < len(patterns[module]):
                a, b, e = _at_their_ranks(a, b, e, torch.tensor(patterns[module], dtype=torch.bool))
            values |= {f"{module}.lora_A": a, f"{module}.lora_B": b, f"{module}.lora_E": e}
        return values


def _at_their_ranks(a: Tensor, b: Tensor, e: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Factors as they were before pruning, with zeros for what was pruned; ``kept: (initial_rank,)``."""
    full_a, full_b = a.new_zeros(len(kept), a.shape[1]), b.new_zeros(len(b), len(kept))
    full_e = e.new_zeros(len(kept))
    full_a[kept], full_b[:, kept], full_e[kept] = a, b, e
    return full_a, full_b, full_e


class VeRAForm:
    """Two vectors a target, and the shared pair, which is written too, as the library does."""

    trains = frozenset({"vera_b", "vera_d"})

    def write(self, trained: Trained) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See ``Form``."""
        method = trained.method
        tensors = trained.renamed({"vera_b": "vera_lambda_b", "vera_d": "vera_lambda_d"})
        config = {
            "peft_type": "VERA",
            "r": method.rank,
            "d_initial": method.initial_d,
            "vera_dropout": method.dropout,
            "projection_prng_key": method.projection_seed,
            "save_projection": True,
            "bias": "none",
            "target_modules": targets_of(tensors, ["vera_lambda_d"]),
        }
        pair = _projections(trained.model)
        return config, {**tensors, **{f"vera_{letter}": tensor for letter, (_, tensor) in pair.items()}}

    def method(self, saved: Saved) -> tuple[str, dict[str, Any]]:
        """See ``Form``."""
        saved.only(bias=("none",), fan_in_fan_out=(False,))
        found = saved.without(("vera_A", "vera_B")).by_module(_VERA_NAMES)
        return "vera", {
            "rank": saved.option("r", 256),
            "initial_d": float(saved.option("d_initial", 0.1)),
            "dropout": float(saved.option("vera_dropout", 0.0)),
            "projection_seed": saved.option("projection_prng_key", 0),
            "targets": saved.roles(found),
        }

    def values(self, saved: Saved, applied: nn.Module) -> dict[str, Tensor]:
        """See ``Form``."""
        for letter, (_, drawn) in _projections(applied).items():
            stored = saved.tensors.get(f"vera_{letter}")
            if stored is not None and (stored.shape != drawn.shape or not _close(stored, drawn)):
                raise UsageError(
                    f"{saved.origin}: its vera_{letter} isn't what its seed "
                    f"{saved.option('projection_prng_key', 0)} gives here",
                    hint="It was drawn by another version; load it with the peft library.",
                )
        found = saved.without(("vera_A", "vera_B")).by_module(_VERA_NAMES)
        return {f"{module}.{name}": tensor for module, own in found.items() for name, tensor in own.items()}


def _projections(model: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """The pair that all targets share: letter -> name and tensor."""
    found: dict[str, tuple[str, Tensor]] = {}
    for name, buffer in model.named_buffers():
        for letter in "AB":
            if name.endswith(f".projections.{letter}"):
                found[letter] = (name, buffer)
    return found


def _close(stored: Tensor, drawn: Tensor) -> bool:
    return torch.allclose(stored.to(drawn), drawn, atol=1e-6, rtol=1e-2 if drawn.element_size() < 4 else 1e-5)
