"""Selected entries: SHiRA, FISH mask and masks by magnitude, with optimizer state for the entries alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from peprof_methods.errors import require
from peprof_methods.fisher import empirical_fisher
from peprof_methods.linears import merge_adapted
from peprof_methods.roles import LINEAR_ROLES, LinearRole, checked_roles, freeze_backbone, linears_by_role
from peprof_methods.selected_linear import SelectedLinear

Selection = Literal["random", "fisher", "magnitude", "smallest"]


@dataclass(frozen=True, kw_only=True)
class SelectedEntries:
    """A fixed few entries of the weight matrices are trained: y = (W + S) x + b, where S has k entries.

    W stays frozen; gradient and optimizer state are as long as S has entries. The entries are chosen once:
    at random (SHiRA: Bhardwaj et al. 2024, arXiv:2406.13175), by the diagonal of the empirical Fisher
    information, the sum over training examples of the squared gradient of the loss (FISH mask: Sung et al.
    2021, arXiv:2111.09839), or by the size of the weight. Every matrix has its share of the entries by its
    size, as in SHiRA; the FISH mask of the paper ranks all matrices together. The head is trained too.

    Args:
        density: share of the target matrices' entries that are trained.
        count: number of entries in all, in place of ``density``; ``None`` for as many as that makes.
        select: ``random``; ``fisher``, largest first; ``magnitude``, largest weights first, as SHiRA does; or
            ``smallest``, smallest weights first, as PaFi does (Liao et al. 2023, arXiv:2305.16742).
        examples: how many training examples ``fisher`` looks at, one by one.
        targets: roles of the linear layers whose entries may be chosen.
    """

    density: float = 0.01
    count: int | None = None
    select: Selection = "random"
    examples: int = 1024
    targets: tuple[LinearRole, ...] = (
        "attention.query",
        "attention.key",
        "attention.value",
        "attention.output",
        "feedforward.up",
        "feedforward.gate",
        "feedforward.down",
    )

    family: ClassVar[str] = "selected entries"
    paper: ClassVar[str] = "Sung et al. 2021, arXiv:2111.09839; Bhardwaj et al. 2024, arXiv:2406.13175"
    trains: ClassVar[str] = "a few entries of the linear layers' weights"
    unsupported: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        require(0 < self.density <= 1, "density", self.density, "above 0 and at most 1")
        if self.count is not None:
            require(self.count >= 1, "count", self.count, "at least 1, or none")
        known = get_args(Selection)
        require(self.select in known, "select", self.select, f"one of {', '.join(known)}")
        require(self.examples >= 1, "examples", self.examples, "at least 1")
        object.__setattr__(self, "targets", checked_roles(self.targets, known=LINEAR_ROLES, option="targets"))

    def examples_needed(self) -> int:
        """How many training examples the selection looks at; 0 if it goes by chance or by the weights."""
        return self.examples if self.select == "fisher" else 0

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze the backbone and put the entries in; for ``fisher``, which wants data, at random places.

        Args:
            model: of a known architecture; changed in place.

        Returns:
            The same model.

        Raises:
            ValueError: if the targets have fewer entries than ``count``.
            UnsupportedModelError: for an unknown architecture, or a target that isn't a plain linear layer.
        """
        return self._apply(model, {})

    def apply_with_data(self, model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> nn.Module:
        """As ``apply``, with the entries of the largest Fisher information for ``fisher``.

        Args:
            model: as for ``apply``.
            batches: the model's arguments, labels included; only the first ``examples`` examples are used.

        Raises:
            ValueError: as ``apply``, or if there is no example.
            UnsupportedModelError: as ``apply``.
        """
        if self.select != "fisher":
            return self.apply(model)
        weights = {name: linear.weight for name, linear in linears_by_role(model, self.targets).items()}
        self._shares(weights)  # what is refused is refused before anything is computed
        return self._apply(model, empirical_fisher(model, weights, batches, examples=self.examples))

    def merge(self, model: nn.Module) -> nn.Module:
        """Add the entries to the weights, for inference without extra cost.

        Args:
            model: as returned by ``apply``; changed in place, so that no second copy of the weights is held.

        Returns:
            The same model, of plain layers only, with the same logits.
        """
        return merge_adapted(model, SelectedLinear)

    def adapter_state(self, model: nn.Module) -> dict[str, Tensor]:
        """What is worth saving: all that is trained, and the places of the entries.

        Args:
            model: as returned by ``apply``.
        """
        trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        places = {
            f"{name}.selected_indices": module.selected_indices
            for name, module in model.named_modules()
            if isinstance(module, SelectedLinear)
        }
        return trained | places

    def _apply(self, model: nn.Module, scores: Mapping[str, Tensor]) -> nn.Module:
        linears = linears_by_role(model, self.targets)
        shares = self._shares({name: linear.weight for name, linear in linears.items()})
        freeze_backbone(model)
        for (name, linear), share in zip(linears.items(), shares, strict=True):
            if share:
                indices = self._places(linear.weight.detach(), share, scores.get(name))
                model.set_submodule(name, SelectedLinear(linear, indices).train(linear.training))
        return model

    def _shares(self, weights: Mapping[str, Tensor]) -> list[int]:
        sizes = [weight.numel() for weight in weights.values()]
        total = sum(sizes)
        if self.count is not None:
            require(self.count <= total, "count", self.count, f"at most the targets' {total} entries")
        return shares_by_size(sizes, self.count or max(1, round(self.density * total)))

    def _places(self, weight: Tensor, count: int, scores: Tensor | None) -> Tensor:
        """Where in the weight, flattened and in order: (count,) int32."""
        if weight.is_meta:
            return torch.empty(count, dtype=torch.int32, device="meta")
        if self.select in ("magnitude", "smallest"):
            scores = weight.abs() if self.select == "magnitude" else -weight.abs()
        if scores is None:
            # On the CPU always: one seed, the same entries on every device.
            places = torch.randperm(weight.numel(), dtype=torch.int32)[:count].to(weight.device)
        else:
            places = scores.flatten().topk(count, sorted=False).indices.int()
        return places.sort().values


def shares_by_size(sizes: Sequence[int], count: int) -> list[int]:
    """Divides a count by size so that the shares add up to it: largest remainders are rounded up.

    Args:
        sizes: of what shares it.
        count: at most their sum.

    Example:
        >>> shares_by_size([100, 100, 200], 5)
        [1, 1, 3]
    """
    total = sum(sizes)
    shares = [count * size // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(count * sizes[i] % total), -sizes[i], i))
    for index in by_remainder[: count - sum(shares)]:
        shares[index] += 1
    return shares
