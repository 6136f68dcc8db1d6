"""The examples in the docstrings run."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize(("module", "examples"), [("describing", 2), ("overriding", 2), ("schema", 1)])
def test_examples(module: str, examples: int) -> None:
    result = doctest.testmod(importlib.import_module(f"peprof.suite.{module}"))
    assert (result.failed, result.attempted) == (0, examples)
