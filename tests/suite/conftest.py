"""A small package of methods that exists only in the tests, and suites written to a temporary folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from peprof.suite import catalogue

Write = Callable[[str], Path]

# Importing any of these would fail: whoever reads them must not run them.
_EXPLODE = 'raise RuntimeError("this module was imported")\n'

_SOURCES = {
    "__init__.py": _EXPLODE,
    "roles.py": _EXPLODE
    + """
from typing import Literal
Role = Literal["attention.query", "attention.value", "feedforward.up"]
DEFAULT_TARGETS = ("attention.query", "attention.value")
""",
    "base.py": _EXPLODE
    + '''
from dataclasses import dataclass

@dataclass(frozen=True, kw_only=True)
class Base:
    """Common options.

    Args:
        train_head: whether the head is trained too.
    """
    train_head: bool = True
''',
    "full.py": _EXPLODE
    + '''
from dataclasses import dataclass

@dataclass(frozen=True, kw_only=True)
class Full:
    """Everything is trained."""
''',
    "lora.py": _EXPLODE
    + '''
from __future__ import annotations
import torch
from dataclasses import dataclass, field
from typing import Any, ClassVar
from fakepeft.base import Base
from .roles import DEFAULT_TARGETS, Role

@dataclass(frozen=True, kw_only=True)
class LoRA(Base):
    """A low-rank update.

    It is added to the weights.

    Args:
        rank: of the update.
        alpha: the update is scaled
            by alpha / rank.
        dropout, noise: rates.
        targets (tuple): roles of the
            layers that are adapted.

    Raises:
        ValueError: never.
    """
    kind: ClassVar[str] = "adapter"
    rank: int = 8
    alpha: float = 16
    dropout: float | None = None
    noise: "float" = 0.0
    targets: tuple[Role, ...] = DEFAULT_TARGETS
    bias: bool = False
    init: torch.Tensor | None = None
    seen: int = field(default=0, init=False)

    def apply(self, model: Any) -> Any: ...
''',
    "layers.py": _EXPLODE
    + '''
import dataclasses

@dataclasses.dataclass(frozen=True)
class LastLayers:
    """The last layers are trained."""
    count: int
''',
}
_POINTS = {
    "full": "fakepeft.full:Full",
    "lora": "fakepeft.lora:LoRA",
    "last_layers": "fakepeft.layers:LastLayers",
}


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package's folder, importable but not imported."""
    folder = tmp_path / "site" / "fakepeft"
    folder.mkdir(parents=True)
    for name, text in _SOURCES.items():
        # `from __future__` has to come first in a file.
        head, future, rest = text.partition("from __future__ import annotations\n")
        (folder / name).write_text(future + head + rest)
    monkeypatch.syspath_prepend(folder.parent)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "fakepeft"]:
        del sys.modules[name]


@pytest.fixture
def fake_methods(fake_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for what is installed: full, lora, last_layers."""
    points = [EntryPoint(name, value, catalogue.GROUP) for name, value in _POINTS.items()]
    monkeypatch.setattr(catalogue, "entry_points", lambda *, group: points)


@pytest.fixture
def write_suite(tmp_path: Path, fake_methods: None) -> Write:
    """Writes a suite's text to ``suite.toml`` in a folder of its own."""

    def write(text: str) -> Path:
        path = tmp_path / "folder" / "suite.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write
