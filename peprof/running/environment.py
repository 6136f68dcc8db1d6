"""Where a run is measured: what must be known before two results may be compared."""

from __future__ import annotations

import platform
import socket
from pathlib import Path

import torch
import transformers

import peprof
from peprof.devices import Device
from peprof.results.record import Environment
from peprof.running.repository import commit_of
from peprof.training.quantising import bitsandbytes_version


def describe_environment(device: Device) -> Environment:
    """The machine, the device and the versions, as they are now."""
    facts = device.facts()
    commit, dirty = commit_of(Path.cwd())
    return Environment(
        peprof=peprof.__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        platform=platform.platform(),
        hostname=socket.gethostname(),
        device=facts.kind,
        device_name=facts.name,
        device_uuid=facts.uuid,
        driver=facts.driver,
        cuda=facts.cuda,
        threads=torch.get_num_threads(),
        git_commit=commit,
        git_dirty=dirty,
        bitsandbytes=bitsandbytes_version(),
    )
