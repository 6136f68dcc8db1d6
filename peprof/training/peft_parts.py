"""(IA)3, LayerNorm tuning, selected entries and the library's own tuners in the ``peft`` library's names."""

from __future__ import annotations

import math
from typing import Any

import torch
from peprof_methods.roles import modules_by_role
from peprof_methods.selected_linear import SelectedLinear
from torch import Tensor, nn
from torch.nn import functional

from peprof.errors import UsageError
from peprof.training.peft_forms import Saved, Trained, targets_of


class IA3Form:
    """``ia3_l`` is (out_features, 1) for a scaled output and (1, in_features) for a scaled input."""

    trains = frozenset({"ia3"})

    def write(self, trained: Trained) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See ``Form``."""
        inputs = set(modules_by_role(trained.model, ["feedforward.down"]))
        tensors = trained.renamed({"ia3": "ia3_l"})
        targets = targets_of(tensors, ["ia3_l"])
        shaped = {
            name: tensor[None] if name.removesuffix(".ia3_l") in inputs else tensor[:, None]
            for name, tensor in tensors.items()
        }
        feedforward = [name for name in targets if name in inputs]
        return {"peft_type": "IA3", "target_modules": targets, "feedforward_modules": feedforward}, shaped

    def method(self, saved: Saved) -> tuple[str, dict[str, Any]]:
        """See ``Form``."""
        found = set(saved.by_module({"ia3_l": "ia3"}))
        roles = ("attention.key", "attention.value", "feedforward.down")
        if found != (expected := set(modules_by_role(saved.model, roles))):
            saved.refuse_targets(found, expected)
        return "ia3", {}

    def values(self, saved: Saved, applied: nn.Module) -> dict[str, Tensor]:
        """See ``Form``."""
        inputs = set(modules_by_role(applied, ["feedforward.down"]))
        values: dict[str, Tensor] = {}
        for module, tensors in saved.by_module({"ia3_l": "ia3"}).items():
            scales = tensors["ia3"]
            if scales.ndim != 2 or scales.shape[0 if module in inputs else 1] != 1:
                found, wanted = ("output", "input") if module in inputs else ("input", "output")
                raise UsageError(
                    f"{saved.origin}: '{module}' is scaled at its {found}; (IA)3 here scales its {wanted}"
                )
            values[f"{module}.ia3"] = scales.flatten()
        return values


class LayerNormForm:
    """The norms' own parameters, below ``ln_tuning_layers``."""

    trains = frozenset({"weight", "bias"})

    def write(self, trained: Trained) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See ``Form``."""
        norms = modules_by_role(trained.model, ["layernorm"])
        tensors = {
            f"{name}.ln_tuning_layers.{part}": parameter.detach()
            for name, norm in norms.items()
            for part, parameter in norm.named_parameters()
        }
        return {"peft_type": "LN_TUNING", "target_modules": list(norms)}, tensors

    def method(self, saved: Saved) -> tuple[str, dict[str, Any]]:
        """See ``Form``."""
        found = set(targets_of(saved.tensors, _LAYERNORM_ENDINGS))
        if found != (expected := set(modules_by_role(saved.model, ["layernorm"]))):
            saved.refuse_targets(found, expected)
        return "layernorm", {}

    def values(self, saved: Saved, applied: nn.Module) -> dict[str, Tensor]:
        """See ``Form``."""
        return {name.replace(".ln_tuning_layers.", "."): tensor for name, tensor in saved.tensors.items()}


_LAYERNORM_ENDINGS = ("ln_tuning_layers.weight", "ln_tuning_layers.bias")


class SelectedForm:
    """SHiRA: ``shira_weight`` (entries,) and ``shira_indices`` (2, entries), rows and columns.

    There, every target has r (in_features + out_features) entries; fewer are filled up with zeros that are
    added to the first. Here, each has as many as it has.
    """

    trains = frozenset({"selected"})

    def write(self, trained: Trained) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See ``Form``."""
        found = {name: m for name, m in trained.model.named_modules() if isinstance(m, SelectedLinear)}
        rank = max(math.ceil(len(m.selected) / sum(m.weight.shape)) for m in found.values())
        tensors: dict[str, Tensor] = {}
        for name, module in found.items():
            count, columns = rank * sum(module.weight.shape), module.in_features
            if count > module.weight.numel():
                raise UsageError(
                    f"SHiRA in the peft library needs {count} entries of '{name}' for r = {rank}, and it has "
                    f"{module.weight.numel()}",
                    hint="Train with a lower density, or keep it with save_adapter.",
                )
            missing = count - len(module.selected)
            places = torch.cat([module.selected_indices, module.selected_indices[:1].expand(missing)])
            tensors[f"{name}.shira_weight"] = functional.pad(module.selected.detach(), (0, missing))
            tensors[f"{name}.shira_indices"] = torch.stack([places // columns, places % columns]).int()
        return {"peft_type": "SHIRA", "r": rank, "target_modules": list(found)}, tensors

    def method(self, saved: Saved) -> tuple[str, dict[str, Any]]:
        """See ``Form``."""
        saved.only(fan_in_fan_out=(False,))
        entries = self._entries(saved)
        count = sum(len(places) for places, _ in entries.values())
        return "sparse", {"count": count, "targets": saved.roles(entries)}

    def values(self, saved: Saved, applied: nn.Module) -> dict[str, Tensor]:
        """See ``Form``."""
        values: dict[str, Tensor] = {}
        for name, (places, entries) in self._entries(saved).items():
            values |= {f"{name}.selected_indices": places.int(), f"{name}.selected": entries}
        return values

    @staticmethod
    def _entries(saved: Saved) -> dict[str, tuple[Tensor, Tensor]]:
        """By module: places in the flattened weight, in order, each once, and the values."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name, own in saved.by_module({"shira_weight": "values", "shira_indices": "indices"}).items():
            try:
                columns = saved.model.get_parameter(f"{name}.weight").shape[1]
            except AttributeError as error:
                raise UsageError(f"{saved.origin}: the model has no '{name}'") from error
            rows, column = own["indices"].long()
            places, inverse = torch.unique(rows * columns + column, return_inverse=True)
            found[name] = (places, own["values"].new_zeros(len(places)).index_add_(0, inverse, own["values"]))
        return found


class TunerForm:
    """A tuner of the library itself, under whatever names it has; it is read back by the library only."""

    trains = None

    def write(self, trained: Trained) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See ``Form``."""
        from peft import get_peft_model_state_dict

        model: Any = trained.model
        described = model.peft_config["default"].to_dict()
        config = {name: sorted(v) if isinstance(v, set) else v for name, v in described.items()}
        tensors: dict[str, Tensor] = get_peft_model_state_dict(model)
        return config, tensors
