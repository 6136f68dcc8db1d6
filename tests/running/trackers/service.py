"""A tracking service's client in the shape of such clients: ``init``, ``log``, ``summary``, ``finish``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Run:
    def __init__(self, place: Path, about: dict[str, Any]) -> None:
        place.mkdir(exist_ok=True)
        self._file = (place / "service.jsonl").open("a")
        self.summary: dict[str, float] = {}
        self._write({"init": about})

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def log(self, values: dict[str, float], *, step: int) -> None:
        self._write({"log": values, "step": step})

    def finish(self, exit_code: int) -> None:
        self._write({"finish": exit_code, "summary": self.summary})
        self._file.close()


def init(*, project: str, id: str, config: dict[str, Any], dir: Path, resume: bool) -> Run:
    return Run(dir, {"project": project, "id": id, "config": config, "resume": resume})
