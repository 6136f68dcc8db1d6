"""BitFit (Ben Zaken, Goldberg, Ravfogel 2021, arXiv:2106.10199)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from peprof_methods.architectures import architecture_of
from peprof_methods.errors import UnsupportedModelError
from peprof_methods.quantised import beside
from peprof_methods.roles import LINEAR_ROLES, backbone, freeze_backbone, modules_by_role


@dataclass(frozen=True, kw_only=True)
class BitFit:
    """BitFit (Ben Zaken et al. 2021, arXiv:2106.10199): the backbone's bias terms and the head are trained.

    Those of the normalisations count as bias terms, as in the paper, the embedding's included. A bias needs
    no activation for its own gradient, but backward still runs through the whole backbone.

    T5 and Llama have no biases. There each linear layer (a language model's output layer included) and each
    normalisation is given one of zeros, as Sung et al. 2022 (arXiv:2206.06522) do in their comparison on T5.

    Args:
        add_missing: whether a linear layer or normalisation without a bias is given one.
    """

    add_missing: bool = True

    family: ClassVar[str] = "parts of the model"
    paper: ClassVar[str] = "Ben Zaken et al. 2021, arXiv:2106.10199"
    trains: ClassVar[str] = "biases; added where there are none"
    unsupported: ClassVar[Mapping[str, str]] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze all of the backbone but its biases.

        Args:
            model: of a known architecture; changed in place.

        Returns:
            The same model.

        Raises:
            UnsupportedModelError: for an unknown architecture, or one without any bias if none is added.
        """
        architecture_of(model)  # an unknown model is refused before anything is changed
        if self.add_missing:
            _add_missing(model)
        biases = [p for name, p in backbone(model).named_parameters() if name.rpartition(".")[2] == "bias"]
        if not biases:
            raise UnsupportedModelError(
                f"{type(model).__name__} has no bias terms; expected some, or add_missing = true"
            )
        freeze_backbone(model)
        for bias in biases:
            bias.requires_grad_(True)
        return model


def _add_missing(model: nn.Module) -> None:
    for module in modules_by_role(model, LINEAR_ROLES).values():
        _add_bias(module)
    for module in modules_by_role(model, ["embedding"]).values():
        if isinstance(module, nn.Linear):  # a language model's output layer
            _add_bias(module)
    for module in modules_by_role(model, ["layernorm"]).values():
        if _add_bias(module) and not isinstance(module, nn.LayerNorm):
            # What the norm computes stays its own code: it may be a fused kernel.
            module.register_forward_hook(_shifted)


def _add_bias(module: nn.Module) -> bool:
    """Give a module a bias of zeros, one for each row of its weight; ``False`` if it has one."""
    if getattr(module, "bias", None) is not None:
        return False
    weight = module.weight
    assert isinstance(weight, Tensor)
    rows = module.out_features if isinstance(module, nn.Linear) else weight.shape[0]
    module.bias = nn.Parameter(beside(weight).new_zeros(rows))
    return True


def _shifted(norm: Any, inputs: object, output: Tensor) -> Tensor:
    """A root mean square norm with a bias; in place, since a frozen scale doesn't keep the norm's output."""
    return output.add_(norm.bias)
