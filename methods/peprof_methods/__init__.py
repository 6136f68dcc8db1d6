"""Fine-tuning methods, one file each, written by role so that they work on every known architecture.

A method is a frozen dataclass of its options with ``apply(model) -> nn.Module``, which sets ``requires_grad``
and returns what is trained. Importing this package doesn't import torch; importing a method does.
"""

from peprof_methods.errors import UnknownRoleError, UnsupportedModelError

__all__ = ["UnknownRoleError", "UnsupportedModelError"]
