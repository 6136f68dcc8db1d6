"""LayerNorm tuning (Qi et al. 2022, arXiv:2211.08682; Zhao et al. 2023, arXiv:2312.11420)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from peprof_methods.roles import freeze_backbone, modules_by_role


@dataclass(frozen=True, kw_only=True)
class LayerNormTuning:
    """LayerNorm tuning (Qi et al. 2022, arXiv:2211.08682): the normalisations' scales and shifts are trained.

    All of the backbone's normalisations are, the embedding's and the one after the last layer included; root
    mean square norms, as T5 and Llama have them, have a scale only (Zhao et al. 2023, arXiv:2312.11420). The
    head is trained too. It has no options.
    """

    family: ClassVar[str] = "parts of the model"
    paper: ClassVar[str] = "Qi et al. 2022, arXiv:2211.08682"
    trains: ClassVar[str] = "scales and shifts of the normalisations"
    unsupported: ClassVar[Mapping[str, str]] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze all of the backbone but its normalisations.

        Args:
            model: of a known architecture; changed in place.

        Returns:
            The same model.

        Raises:
            UnsupportedModelError: for an unknown architecture.
        """
        norms = modules_by_role(model, ["layernorm"])
        freeze_backbone(model)
        for norm in norms.values():
            norm.requires_grad_(True)
        return model
