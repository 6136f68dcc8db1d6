"""LoRA, DoRA, LoRA-FA, PiSSA and SiVA in the ``peft`` library's names: see ``peft_forms``."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from peprof_methods.architectures import architecture_of
from peprof_methods.roles import head_parameters
from torch import Tensor, nn

from peprof.errors import UsageError
from peprof.training.peft_forms import Saved, Trained, targets_of

_A, _B, _MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"


class LoRAForm:
    """LoRA and those of its kin that are LoRA to the library: DoRA with its magnitudes, LoRA-FA.

    What has been trained by LoRA-FA comes back as LoRA: the files are the same. The backbone's biases, where
    they are trained too, are the library's ``bias = "all"``.
    """

    trains = frozenset({"lora_A", "lora_B", "magnitude", "bias"})

    def write(self, trained: Trained) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See ``Form``."""
        method = trained.method
        tensors = trained.renamed({"lora_A": _A, "lora_B": _B, "magnitude": _MAGNITUDE})
        config = lora_config(
            rank=method.rank,
            alpha=method.alpha,
            dropout=method.dropout,
            targets=targets_of(tensors, [_A]),
            use_rslora=method.scaling == "rank_stabilized",
            use_dora=any(name.endswith(_MAGNITUDE) for name in tensors),
        )
        biases = _written_biases(trained.model)
        return {**config, "bias": "all" if biases else "none"}, {**tensors, **biases}

    def method(self, saved: Saved) -> tuple[str, dict[str, Any]]:
        """See ``Form``."""
        saved.only(
            bias=("none", "all"),
            init_lora_weights=(True, False, "gaussian", "pissa"),
            alpha_pattern=(),
            layer_replication=(),
            fan_in_fan_out=(False,),
            use_qalora=(False,),
            alora_invocation_tokens=(),
            arrow_config=(),
        )
        dora, rank_stabilized = bool(saved.option("use_dora", False)), bool(saved.option("use_rslora", False))
        biases = _saved_biases(saved)
        found = saved.without(biases).by_module(_names(dora=dora))
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
        if biases and (dora or saved.config.get("init_lora_weights") == "pissa"):
            raise UsageError(
                f"{saved.origin}: biases that are trained with DoRA or PiSSA have no counterpart here"
            )
        if saved.config.get("init_lora_weights") == "pissa":
            if dora:
                raise UsageError(f"{saved.origin}: PiSSA together with DoRA has no counterpart here")
            return "pissa", {**options, "alpha": alpha * math.sqrt(rank) if rank_stabilized else alpha}
        scaling = "rank_stabilized" if rank_stabilized else "standard"
        options |= {"alpha": alpha, "scaling": scaling, **({"biases": True} if biases else {})}
        return "dora" if dora else "lora", options

    def values(self, saved: Saved, applied: nn.Module) -> dict[str, Tensor]:
        """See ``Form``."""
        biases = _saved_biases(saved)
        found = saved.without(biases).by_module(_names(dora=bool(saved.option("use_dora", False))))
        values = {f"{module}.{name}": tensor for module, own in found.items() for name, tensor in own.items()}
        for name, ours in biases.items():
            if ours is not None:
                values[ours] = saved.tensors[name]
        return values


class PrincipalForm(LoRAForm):
    """PiSSA and SiVA, whose update stands beside what is left of the weight.

    The library makes the same rest from the backbone's weight when it reads ``init_lora_weights = "pissa"``,
    by an exact decomposition. A randomised one can't be repeated there. For it, the difference to the start
    is written as LoRA of twice the rank, beside the weight as it was (Meng et al. 2024, arXiv:2404.02948,
    appendix C): B A - B0 A0 = [B, -B0] [A; A0].

    SiVA comes back as PiSSA, with U for B and diag(S) V for A.
    """

    trains = frozenset({"lora_A", "lora_B", "siva_U", "siva_V"})

    def write(self, trained: Trained) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See ``Form``."""
        method = trained.method
        tensors = _factors(trained.model)
        alpha = float(method.rank if getattr(method, "alpha", None) is None else method.alpha)
        config = lora_config(
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


def _names(*, dora: bool) -> dict[str, str]:
    return {_A: "lora_A", _B: "lora_B", **({_MAGNITUDE: "magnitude"} if dora else {})}


def _written_biases(model: nn.Module) -> dict[str, Tensor]:
    """The backbone's biases that are trained, by the library's names.

    Raises:
        UsageError: they were added where there are none.
    """
    parameters = dict(model.named_parameters())
    head = {id(parameter) for parameter in head_parameters(model)}
    found = {
        f"{module}.base_layer.bias" if f"{module}.lora_A" in parameters else name: parameter.detach()
        for name, parameter in parameters.items()
        for module, _, last in [name.rpartition(".")]
        if last == "bias" and parameter.requires_grad and id(parameter) not in head
    }
    if found and architecture_of(model).family in ("t5", "llama"):
        raise UsageError(
            f"the peft library adds no biases to {type(model).__name__}, and would leave those out",
            hint="save_adapter keeps them in peprof's own format.",
        )
    return found


def _saved_biases(saved: Saved) -> dict[str, str | None]:
    """The library's name of each bias -> ours; ``None`` for further copies of the head's."""
    if saved.option("bias", "none") != "all":
        return {}
    copies = (".original_module.", ".modules_to_save.")
    return {
        name: None if any(part in name for part in copies) else name.replace(".base_layer.", ".")
        for name in saved.tensors
        if name.endswith(".bias")
    }


def lora_config(
    *, rank: int, alpha: float, dropout: float, targets: list[str], **others: Any
) -> dict[str, Any]:
    """The library's configuration of LoRA and what it derives from it.

    Args:
        rank, alpha, dropout: of the update.
        targets: names of modules.
        others: further keys of the configuration.
    """
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
