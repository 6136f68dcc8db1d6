"""Stands in for the client of a service: notes what it is called with, and refuses steps that go down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Run:
    def __init__(self, file: Path, about: dict[str, Any]) -> None:
        self._file = file.open("a")
        self._last_step = 0
        self.summary: dict[str, float] = {}
        self._write({"init": about})

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def log(self, data: dict[str, float], step: int) -> None:
        assert step >= self._last_step
        self._last_step = step
        self._write({"log": data, "step": step})

    def finish(self, exit_code: int) -> None:
        self._write({"finish": exit_code, "summary": self.summary})
        self._file.close()


def init(*, project: str, id: str, config: dict[str, Any], dir: Path, resume: str) -> Run:
    return Run(dir / "wandb.jsonl", {"project": project, "id": id, "config": config, "resume": resume})
