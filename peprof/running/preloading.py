"""What training imports late, imported early where that takes CUDA from nobody: in the fork server.

Schedules bring peft along and, where it is installed, bitsandbytes, which counts GPUs when it is imported: a
process that is forked after that can't use CUDA. Imported here they cost a second once and not in each run.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import torch

_CAN_HAVE_GPUS = torch.version.cuda is not None or torch.version.hip is not None

if not _CAN_HAVE_GPUS or find_spec("bitsandbytes") is None:
    import_module("peprof.training.schedules")
