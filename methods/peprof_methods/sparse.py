"""Selected entries: SHiRA, FISH mask and masks by magnitude, with optimizer state for the entries alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from peprof_methods.errors import require
from peprof_methods.fisher import empirical_fisher
from peprof_methods.linears import Mergeable
from peprof_methods.quantised import refuse_quantised
from peprof_methods.roles import LINEAR_ROLES, LinearRole, checked_roles, freeze_backbone, linears_by_role
from peprof_methods.selected_linear import SelectedLinear

Selection = Literal["random", "fisher", "magnitude", "smallest"]
Scope = Literal["matrix", "global"]


@dataclass(frozen=True, kw_only=True)
class SelectedEntries(Mergeable):
    """A fixed few entries of the weight matrices are trained: y = (W + S) x + b, where S has k entries.

    W stays frozen; gradient and optimizer state are as long as S has entries. The entries are chosen once:
    at random (SHiRA: Bhardwaj et al. 2024, arXiv:2406.13175), by the diagonal of the empirical Fisher
    information, the sum over training examples of the squared gradient of the loss (FISH mask: Sung et al.
    2021, arXiv:2111.09839), or by the size of the weight. The head is trained too. The paper of the FISH mask
    lets it choose among embeddings, norms and biases as well.

    Args:
        density: share of the target matrices' entries that are trained.
        count: number of entries in all, in place of ``density``; ``None`` for as many as that makes.
        select: ``random``; ``fisher``, largest first; ``magnitude``, largest weights first, as SHiRA does; or
            ``smallest``, smallest weights first, as PaFi does (Liao et al. 2023, arXiv:2305.16742).
        scope: ``matrix`` gives every matrix its share by its size, as SHiRA does; ``global`` ranks the
            entries of all together, as the FISH mask does, so that some matrices may have nothing; ``None``
            is ``global`` for ``fisher`` and ``matrix`` for the others. ``random`` is the same either way.
        examples: how many training examples ``fisher`` looks at, one by one.
        targets: roles of the linear layers whose entries may be chosen.
    """

    density: float = 0.01
    count: int | None = None
    select: Selection = "random"
    scope: Scope | None = None
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
    variants: ClassVar[Mapping[str, tuple[str, str]]] = {
        "SHiRA": ('select = "random"', "Bhardwaj et al. 2024, arXiv:2406.13175"),
        "FISH mask": ('select = "fisher"', "Sung et al. 2021, arXiv:2111.09839"),
        "PaFi": ('select = "smallest"', "Liao et al. 2023, arXiv:2305.16742"),
    }

    def __post_init__(self) -> None:
        require(0 < self.density <= 1, "density", self.density, "above 0 and at most 1")
        if self.count is not None:
            require(self.count >= 1, "count", self.count, "at least 1, or none")
        known = get_args(Selection)
        require(self.select in known, "select", self.select, f"one of {', '.join(known)}")
        scopes = get_args(Scope)
        named = self.scope is None or self.scope in scopes
        require(named, "scope", self.scope, f"one of {', '.join(scopes)}, or none")
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
        linears = self._linears(model)
        return _put(model, linears, self._places({n: linear.weight for n, linear in linears.items()}, {}))

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
        linears = self._linears(model)
        weights = {name: linear.weight for name, linear in linears.items()}
        self._total(weights)  # what is refused is refused before anything is computed
        scores = empirical_fisher(model, weights, batches, examples=self.examples)
        return _put(model, linears, self._places(weights, scores))

    def apply_saved(self, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        """As ``apply``, with as many entries in each matrix, and in the same places, as were saved.

        Args:
            model: as for ``apply``.
            state: as ``adapter_state`` gave it.

        Raises:
            ValueError: if a matrix that has entries in it is none of the targets.
            UnsupportedModelError: as ``apply``.
        """
        linears = self._linears(model)
        end = ".selected_indices"
        places = {name.removesuffix(end): tensor for name, tensor in state.items() if name.endswith(end)}
        for name in places.keys() - linears.keys():
            raise ValueError(
                f"there are entries of {name!r}: expected those of {', '.join(self.targets)} only"
            )
        devices = {name: linear.weight.device for name, linear in linears.items()}
        return _put(model, linears, {n: tensor.to(devices[n], copy=True) for n, tensor in places.items()})

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

    def _linears(self, model: nn.Module) -> dict[str, nn.Linear]:
        linears = linears_by_role(model, self.targets)
        named = ((f"{name}.weight", linear.weight) for name, linear in linears.items())
        refuse_quantised(named, wanted="trained entry by entry")
        return linears

    def _total(self, weights: Mapping[str, Tensor]) -> int:
        """How many entries are trained."""
        total = sum(weight.numel() for weight in weights.values())
        if self.count is not None:
            require(self.count <= total, "count", self.count, f"at most the targets' {total} entries")
        return self.count or max(1, round(self.density * total))

    def _places(self, weights: Mapping[str, Tensor], scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Where in each weight, flattened and in order: int32."""
        total = self._total(weights)
        by_score = bool(scores) or self.select in ("magnitude", "smallest")
        scope = self.scope or ("global" if self.select == "fisher" else "matrix")
        meta = next(iter(weights.values())).is_meta
        if scope == "global" and by_score and not meta:
            return largest_of_all({n: self._score(w, scores.get(n)) for n, w in weights.items()}, total)
        shares = shares_by_size([weight.numel() for weight in weights.values()], total)
        return {
            name: _at_random(weight, share)
            if meta or not by_score
            else _largest(self._score(weight, scores.get(name)), share).int()
            for (name, weight), share in zip(weights.items(), shares, strict=True)
        }

    def _score(self, weight: Tensor, fisher: Tensor | None) -> Tensor:
        """The larger, the sooner an entry is chosen."""
        if fisher is not None:
            return fisher
        size = weight.detach().abs()
        return size if self.select == "magnitude" else size.neg_()


def _put(model: nn.Module, linears: Mapping[str, nn.Linear], places: Mapping[str, Tensor]) -> nn.Module:
    freeze_backbone(model)
    for name, linear in linears.items():
        indices = places.get(name)
        if indices is not None and len(indices):
            model.set_submodule(name, SelectedLinear(linear, indices).train(linear.training))
    return model


def _at_random(weight: Tensor, count: int) -> Tensor:
    if weight.is_meta:
        return torch.empty(count, dtype=torch.int32, device="meta")
    # On the CPU always: one seed, the same entries on every device.
    places = torch.randperm(weight.numel(), dtype=torch.int32)[:count]
    return places.sort().values.to(weight.device)


def _largest(scores: Tensor, count: int) -> Tensor:
    return scores.flatten().topk(count, sorted=False).indices.sort().values


def largest_of_all(scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """The places of the largest entries of several tensors.

    Args:
        scores: by name.
        count: of all tensors together.

    Returns:
        By the same names: places in the flattened tensor, in order, int32.

    Example:
        >>> largest_of_all({"a": torch.tensor([1.0, 7.0]), "b": torch.tensor([[5.0], [9.0]])}, 3)
        {'a': tensor([1], dtype=torch.int32), 'b': tensor([0, 1], dtype=torch.int32)}
    """
    places = _largest(torch.cat([score.flatten() for score in scores.values()]), count)
    ends = torch.tensor([score.numel() for score in scores.values()], device=places.device).cumsum(0)
    starts = [0, *ends.tolist()]
    parts = places.tensor_split(torch.searchsorted(places, ends).tolist()[:-1])
    return {name: (part - start).int() for name, part, start in zip(scores, parts, starts, strict=False)}


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
