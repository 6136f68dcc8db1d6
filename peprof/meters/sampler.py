"""A sampler in a process of its own: what is measured shares neither its interpreter nor its lock with it.

A thread would be simpler, but each of its looks takes Python's global lock some ten times, just when a step
wants to launch its next kernel, and where a step holds the lock a look comes late. A process costs a start of
some tenths of a second, once, and then nothing that a step can feel while a processor is free; and a
library that hangs or crashes takes nobody along.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from peprof.meters.process import READY
from peprof.meters.reading import Reading

NVML_PERIOD_S = 0.02
"""Several looks in a period of the slow counters (0.1 s), and one in that of the quick (0.02 s)."""

RAPL_PERIOD_S = 0.1
"""This counter moves each millisecond; the looks are for rounds alone, and take a processor's time."""

EVERYTHING_S = 0.25
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a sampler has seen.

    Args:
        readings: in order.
        why_cut: why they end too soon, or why there are none; ``None`` where they don't.
    """

    readings: tuple[Reading, ...]
    why_cut: str | None = None


class Sampler:
    """Polls from when it is entered until it is left; never fails because of what it polls.

    Entering waits until the counter has moved, leaving until it has moved once more, each for half a second
    at most: only so is a window between them known at both of its ends.

    Args:
        source: see ``process.open_source``.
        period_s: from one look at energy and power to the next.
        everything_s: the same for all other figures.
    """

    def __init__(
        self, source: dict[str, Any], *, period_s: float, everything_s: float = EVERYTHING_S
    ) -> None:
        self._told = {"source": source, "period_s": period_s, "everything_s": everything_s}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._why_cut: str | None = None
        self._trace: Trace | None = None

    @property
    def pid(self) -> int | None:
        """Of its process; ``None`` while there is none."""
        return self._process.pid if self._process is not None else None

    def __enter__(self) -> Sampler:
        self._trace = self._why_cut = None
        self._folder = tempfile.TemporaryDirectory(prefix="peprof-sampler-", ignore_cleanup_errors=True)
        try:
            self._start(Path(self._folder.name))
        except OSError as error:
            self._why_cut = f"the sampler's process could not be started: {error}"
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def trace(self) -> Trace:
        """What was seen; to be called after leaving the context."""
        if self._trace is None:
            raise RuntimeError("the sampler is still at work, or was never entered: leave its context first")
        return self._trace

    def _start(self, folder: Path) -> None:
        told = {**self._told, "file": str(folder / "readings")}
        # The very package that runs here, wherever it came from; '-P' keeps the working directory out.
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        with (folder / "errors").open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "peprof.meters.process", json.dumps(told)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
            )
        give_up_s = time.perf_counter() + START_TIMEOUT_S
        while not _is_ready(folder / "readings"):
            if self._process.poll() is not None:
                return  # said when it is ended
            if time.perf_counter() > give_up_s:
                self._why_cut = f"the sampler's process wasn't ready after {START_TIMEOUT_S:g} s"
                return
            time.sleep(0.01)

    def _end(self) -> None:
        folder, process = self._folder, self._process
        assert folder is not None  # it was entered
        self._process = self._folder = None
        try:
            if process is not None:
                self._stop(process, Path(folder.name))
            self._trace = Trace(readings=_read(Path(folder.name) / "readings"), why_cut=self._why_cut)
        finally:
            folder.cleanup()

    def _stop(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        ended_before = process.poll() is not None
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it may have gone already
            process.stdin.close()
        try:
            code = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self._why_cut = self._why_cut or f"the sampler's process didn't end within {STOP_TIMEOUT_S:g} s"
            return
        if ended_before or code != 0:
            said = (folder / "errors").read_text(errors="replace").strip().splitlines()
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self._why_cut = f"the sampler's process ended by itself ({how})" + (
                f": {said[-1]}" if said else ""
            )


def _is_ready(path: Path) -> bool:
    try:
        return f"{READY}\n" in path.read_text(encoding="utf-8")
    except OSError:
        return False  # not made yet


def _read(path: Path) -> tuple[Reading, ...]:
    """All whole lines; the last may be cut off where its writer was killed."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError:
        return ()
    return tuple(Reading.from_line(line) for line in lines if line.endswith("}\n"))


def nvml_sampler(uuid: str, pid: int, *, library: str = "pynvml") -> Sampler:
    """A sampler of a GPU.

    Args:
        uuid: as the management library names it.
        pid: of the process whose memory on it is asked for.
        library: the module that is imported for it.
    """
    source = {"kind": "nvml", "uuid": uuid, "pid": pid, "library": library}
    return Sampler(source, period_s=NVML_PERIOD_S)


def rapl_sampler(root: Path) -> Sampler:
    """A sampler of the machine's processors.

    Args:
        root: where the kernel shows their counters.
    """
    return Sampler({"kind": "rapl", "root": str(root)}, period_s=RAPL_PERIOD_S)
