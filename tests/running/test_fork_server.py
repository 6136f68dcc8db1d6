"""What the fork server imports for all children: nothing that would take CUDA from them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from peprof.running.executors.local import PRELOAD

_CODE = """
import importlib
import sys

import torch

torch.version.cuda = "13.0"  # as in a build that could use GPUs


def refuse(*arguments, **options):
    raise SystemExit("CUDA was asked: a process that is forked after that can't use it")


for name in ("is_available", "device_count", "_lazy_init", "get_device_capability", "get_device_properties"):
    setattr(torch.cuda, name, refuse)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sorted({"bitsandbytes", "peft", "transformers"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_nothing_that_is_preloaded_looks_for_gpus() -> None:
    """Counting devices is enough: torch then refuses CUDA to forked children (torch.cuda._lazy_init)."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE, *PRELOAD], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "CUDA was asked" not in done.stderr, done.stderr
    assert done.stdout.split() == ["transformers"], "bitsandbytes, which comes with peft, looks for them"


@pytest.mark.slow
def test_where_torch_knows_no_gpus_schedules_are_there_for_all_children() -> None:
    code = "import torch, sys; torch.version.cuda = None; import peprof.running.preloading; "
    code += "print('peprof.training.schedules' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.slow
def test_nor_does_what_estimates_in_the_process_that_asks() -> None:
    """A context of its own would be gone from the memory that ``peprof fit`` has found free."""
    code = _CODE + (
        "from peprof.cli import commands\n"
        "commands(['estimate', '--model', 'bert-base', '--method', 'lora', '--device', 'H100'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "CUDA was asked" not in done.stderr, done.stderr
    assert "bert-base: 109M parameters" in done.stdout
