"""The LoRA family in the ``peft`` library's names: see ``peft_forms``."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peprof.errors import UsageError
from peprof.training.peft_forms import Saved, Trained, targets_of

_A, _B, _MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"


@dataclass(frozen=True, kw_only=True)
class LoRAForm:
    """LoRA and those of its kin that are LoRA to the library: DoRA with its magnitudes, LoRA-FA.

    What has been trained by LoRA-FA comes back as LoRA: the files are the same.
    """

    def write(self, trained: Trained) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See ``Form``."""
        method = trained.method
        tensors = trained.renamed({"lora_A": _A, "lora_B": _B, "magnitude": _MAGNITUDE})
        config = _config(
            rank=method.rank,
            alpha=method.alpha,
            dropout=method.dropout,
            targets=targets_of(tensors, [_A]),
            use_rslora=method.scaling == "rank_stabilized",
            use_dora=any(name.endswith(_MAGNITUDE) for name in tensors),
        )
        return config, tensors

    def method(self, saved: Saved) -> tuple[str, dict[str, Any]]:
        """See ``Form``."""
        saved.only(
            bias=("none",),
            init_lora_weights=(True, False, "gaussian", "pissa"),
            alpha_pattern=(),
            layer_replication=(),
            fan_in_fan_out=(False,),
            use_qalora=(False,),
            alora_invocation_tokens=(),
            arrow_config=(),
        )
        dora, rank_stabilized = bool(saved.option("use_dora", False)), bool(saved.option("use_rslora", False))
        found = saved.by_module(_names(dora=dora))
        rank, alpha = saved.option("r", 8), float(saved.option("lora_alpha", 8))
        for module, tensors in found.items():
            if len(tensors["lora_A"]) != rank:
                raise UsageError(
                    f"{saved.origin}: '{module}' has rank {len(tensors['lora_A'])}, others {rank}; expected "
                    "one rank for all"
                )
        options: dict[str, Any] = {
            "rank": rank,
            "dropout": float(saved.option("lora_dropout", 0.0)),
            "targets": saved.roles(found),
        }
        if saved.config.get("init_lora_weights") == "pissa":
            if dora:
                raise UsageError(f"{saved.origin}: PiSSA together with DoRA has no counterpart here")
            return "pissa", {**options, "alpha": alpha * math.sqrt(rank) if rank_stabilized else alpha}
        scaling = "rank_stabilized" if rank_stabilized else "standard"
        return "dora" if dora else "lora", {**options, "alpha": alpha, "scaling": scaling}

    def values(self, saved: Saved, applied: nn.Module) -> dict[str, Tensor]:
        """See ``Form``."""
        found = saved.by_module(_names(dora=bool(saved.option("use_dora", False))))
        return {f"{module}.{name}": tensor for module, own in found.items() for name, tensor in own.items()}


class PrincipalForm(LoRAForm):
    """PiSSA and SiVA, whose update stands beside what is left of the weight.

    The library makes the same rest from the backbone's weight when it reads ``init_lora_weights = "pissa"``,
    by an exact decomposition. A randomised one can't be repeated there. For it, the difference to the start
    is written as LoRA of twice the rank, beside the weight as it was (Meng et al. 2024, arXiv:2404.02948,
    appendix C): B A - B0 A0 = [B, -B0] [A; A0].

    SiVA comes back as PiSSA, with U for B and diag(S) V for A.
    """

    def write(self, trained: Trained) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See ``Form``."""
        method = trained.method
        tensors = _factors(trained.model)
        alpha = float(method.rank if getattr(method, "alpha", None) is None else method.alpha)
        config = _config(
            rank=method.rank, alpha=alpha, dropout=method.dropout, targets=targets_of(tensors, [_A])
        )
        if method.svd_iterations is None:
            return {**config, "init_lora_weights": "pissa"}, tensors
        if trained.backbone is None:
            raise UsageError(
                "the peft library can't repeat a start made with svd_iterations; the difference to it can be "
                "written if the backbone as it was is given",
                hint="Pass it as backbone=..., or train with the exact decomposition.",
            )
        if method.dropout:
            config["lora_dropout"] = 0.0  # it would drop what the backbone computes
        start = _factors(method.apply(copy.deepcopy(trained.backbone)))
        doubled = {
            name: torch.cat([tensor, start[name]])
            if name.endswith(_A)
            else torch.cat([tensor, -start[name]], dim=1)
            for name, tensor in tensors.items()
        }
        return {**config, "r": 2 * method.rank, "lora_alpha": 2 * alpha}, doubled


class AdaLoRAForm:
    """``lora_E`` is (rank, 1); the library keeps pruned ranks out of its files, and says where they were."""

    def write(self, trained: Trained) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See ``Form``. Ranks that were pruned are written, as zeros."""
        method = trained.method
        tensors = trained.renamed({name: name for name in _ADALORA_NAMES})
        columns = {n: tensor[:, None] if n.endswith("lora_E") else tensor for n, tensor in tensors.items()}
        config = _config(
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
        found = _without_pair(saved).by_module(_VERA_NAMES)
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
        found = _without_pair(saved).by_module(_VERA_NAMES)
        return {f"{module}.{name}": tensor for module, own in found.items() for name, tensor in own.items()}


_ADALORA_NAMES = {"lora_A": "lora_A", "lora_B": "lora_B", "lora_E": "lora_E"}
_VERA_NAMES = {"vera_lambda_b": "vera_b", "vera_lambda_d": "vera_d"}


def _names(*, dora: bool) -> dict[str, str]:
    return {_A: "lora_A", _B: "lora_B", **({_MAGNITUDE: "magnitude"} if dora else {})}


def _config(*, rank: int, alpha: float, dropout: float, targets: list[str], **others: Any) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "bias": "none",
        "target_modules": targets,
        **others,
    }


def _factors(model: nn.Module) -> dict[str, Tensor]:
    """A and B of PiSSA; of SiVA, diag(S) V and U."""
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if "siva_U" in own:
            values = module.get_buffer("siva_S")
            own |= {"lora_A": nn.Parameter(values[:, None] * own["siva_V"]), "lora_B": own["siva_U"]}
        if "lora_A" in own:
            found[f"{name}.{_A}"], found[f"{name}.{_B}"] = own["lora_A"].detach(), own["lora_B"].detach()
    return found


def _projections(model: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """The pair that all targets share: letter -> name and tensor."""
    found: dict[str, tuple[str, Tensor]] = {}
    for name, buffer in model.named_buffers():
        for letter in "AB":
            if name.endswith(f".projections.{letter}"):
                found[letter] = (name, buffer)
    return found


def _without_pair(saved: Saved) -> Saved:
    kept = {name: tensor for name, tensor in saved.tensors.items() if name not in ("vera_A", "vera_B")}
    return Saved(origin=saved.origin, model=saved.model, config=saved.config, tensors=kept)


def _close(stored: Tensor, drawn: Tensor) -> bool:
    return torch.allclose(stored.to(drawn), drawn, atol=1e-6, rtol=1e-2 if drawn.element_size() < 4 else 1e-5)
