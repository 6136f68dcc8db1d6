"""Linear layers made from parameters that already exist."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from peprof_methods.quantised import dense_dtype, is_quantised, keep_scales


class SharingLinear(nn.Linear):
    """A linear layer that holds another's parameters under their old names, so that checkpoints still fit.

    Args:
        linear: whose parameters they are; shared, not copied.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        keep_scales(linear)
        self.weight = linear.weight
        self.bias = linear.bias


class AdaptedLinear(SharingLinear):
    """A linear layer with something beside its weight that can be folded into it."""

    @abstractmethod
    def merged(self) -> nn.Linear:
        """A plain layer that computes the same."""

    def plain_with(self, weight: Tensor) -> nn.Linear:
        """A plain layer with another weight, in the dtype of the own; it shares the bias."""
        bias = None if self.bias is None else self.bias.detach()
        return plain_linear(weight.to(dense_dtype(self.weight)), bias, training=self.training)


class Mergeable:
    """A method that makes nothing but ``AdaptedLinear`` layers."""

    def merge(self, model: nn.Module) -> nn.Module:
        """Fold what was trained into the weights, for inference without extra cost.

        Args:
            model: as returned by ``apply``; changed in place, so that no second copy of the weights is held.

        Returns:
            The same model, of plain layers only, with the same logits.

        Raises:
            NotImplementedError: a weight is held in 4 or 8 bits, where no update fits in as it is.
        """
        for name, module in list(model.named_modules()):
            if isinstance(module, AdaptedLinear) and is_quantised(module.weight):
                raise NotImplementedError(f"{name} is quantised: nothing can be folded into it without loss")
            if isinstance(module, AdaptedLinear):
                model.set_submodule(name, module.merged())
        return model


def plain_linear(weight: Tensor, bias: Tensor | None, *, training: bool) -> nn.Linear:
    """A frozen ``nn.Linear`` that holds the given tensors without copying or initialising anything.

    Args:
        weight: (out_features, in_features)
        bias: (out_features,) or none.
        training: the mode that the layer is left in.
    """
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear.train(training)
