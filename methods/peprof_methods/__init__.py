"""Fine-tuning methods, one file each, written by role so that they work on every known architecture.

A method is a frozen dataclass of its options with ``apply(model) -> nn.Module``, which sets ``requires_grad``
and returns what is trained. Importing this package doesn't import torch; importing a method does.

What the methods stand on:

- ``architectures`` and ``roles``: what each architecture calls its parts; ``errors``: what can be wrong.
- ``linears``: layers that hold another's parameters, and merging. Of these ``inserted_linear`` is for
  adapters, ``selected_linear`` for ``sparse``.
- ``low_rank_method`` and ``low_rank_products``: options and arithmetic that LoRA and its kin share;
  ``autocasting``: what such arithmetic owes to autocast.
- ``ladder`` and ``ladder_...``: the modules that ``lst`` puts together, for each architecture.
- ``prefix_attention``: attention with keys and values before its own; ``fisher``: which weights matter.
"""

from peprof_methods.errors import UnknownRoleError, UnsupportedModelError

__all__ = ["UnknownRoleError", "UnsupportedModelError"]
