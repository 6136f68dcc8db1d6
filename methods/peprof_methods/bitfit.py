"""BitFit (Ben Zaken, Goldberg, Ravfogel 2021, arXiv:2106.10199)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from peprof_methods.errors import UnsupportedModelError
from peprof_methods.roles import backbone, freeze_backbone


@dataclass(frozen=True, kw_only=True)
class BitFit:
    """BitFit (Ben Zaken et al. 2021, arXiv:2106.10199): the backbone's bias terms and the head are trained.

    Those of the normalisations count as bias terms, as in the paper, the embedding's included. A bias needs
    no activation for its own gradient, but backward still runs through the whole backbone. It has no options.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze all of the backbone but its biases.

        Args:
            model: a sequence classifier; changed in place.

        Returns:
            The same model.

        Raises:
            UnsupportedModelError: for an unknown architecture, or one without any bias.
        """
        freeze_backbone(model)
        biases = [p for name, p in backbone(model).named_parameters() if name.rpartition(".")[2] == "bias"]
        if not biases:
            raise UnsupportedModelError(f"{type(model).__name__} has no bias terms that BitFit could train")
        for bias in biases:
            bias.requires_grad_(True)
        return model
