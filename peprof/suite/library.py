"""The tuners of the ``peft`` library and their options, read from its source without importing it."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

from peprof.suite.source_reading import SourceClass, UnreadableError, read_class

PREFIX = "peft:"
MANAGED = frozenset(
    {
        "peft_type",
        "task_type",
        "inference_mode",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "modules_to_save",
    }
)
"""Fields of the library's configurations that aren't a suite's business."""


@cache
def library_tuners() -> dict[str, tuple[str, str]]:
    """Type of tuner (``OFT``) -> module and class of its configuration; empty without the library.

    Each configuration says its type in one line, ``self.peft_type = PeftType.OFT``.
    """
    spec = importlib.util.find_spec("peft")
    if spec is None or not spec.submodule_search_locations:
        return {}
    found: dict[str, tuple[str, str]] = {}
    for path in sorted(Path(spec.submodule_search_locations[0]).glob("tuners/*/config.py")):
        kind = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            opened = re.match(r"class (\w+)", line)
            kind = opened[1] if opened else kind
            typed = re.match(r"\s+self\.peft_type = PeftType\.(\w+)", line)
            if typed and kind:
                found[typed[1]] = (f"peft.tuners.{path.parent.name}.config", kind)
    return found


def read_tuner(name: str) -> SourceClass:
    """The configuration of a tuner.

    Raises:
        UnreadableError: the library isn't there, or has no such tuner.
    """
    tuners = library_tuners()
    if not tuners:
        raise UnreadableError("the peft library isn't installed: pip install 'peprof[peft]'")
    if name not in tuners:
        raise UnreadableError(f"the peft library has no tuner '{name}'")
    module, kind = tuners[name]
    return read_class(module, kind, packages=frozenset({"peft"}))
