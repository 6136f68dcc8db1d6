"""Tries sizes on a device, each in a fresh process; what a dead, late or silent one means for the size.

As of runs: the parent never imports torch here, one process at a time has the device, and whoever leaves the
context ends what is going on.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from peprof.errors import RunFailedError
from peprof.events import Progress
from peprof.gpus.room import GpuRoom
from peprof.results.measured_fits import Ended, Trial
from peprof.running.executors.local import Child, Exit, LocalExecutor
from peprof.running.loop import MEMORY_HINT, POLL_S, exit_words
from peprof.running.tasks import Raised, Result, RoomTask, Slot, Task, Tried, TryTask
from peprof.suite.planning import RunSpec

_KILLED = -9
_LAST_WORDS = 300


class Tries:
    """Processes on one device, one after the other; a context manager, which ends the one that is going on.

    Args:
        slot: the device.
        source: the suite's file, for messages.
        notice: told once that another peprof has the device.
    """

    def __init__(self, slot: Slot, *, source: str, notice: Callable[[str], None]) -> None:
        self.slot = slot
        self._source, self._notice = source, notice
        self._executor = LocalExecutor()
        self._directory = tempfile.TemporaryDirectory(prefix="peprof-fit-")
        self._waited = False

    def __enter__(self) -> Tries:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.close()
        self._directory.cleanup()

    def room(self) -> GpuRoom | None:
        """What there is of the device's memory; ``None`` where it has none of its own.

        Raises:
            PeprofError: the device can't be used.
        """
        child = self._started(RoomTask(device=self.slot.device))
        answer = self._answer(child, None, lambda event: None)
        if isinstance(answer, Raised):
            raise answer.error
        if not isinstance(answer, Result):
            words = exit_words(answer.code) if answer is not None else "no answer"
            raise RunFailedError(
                f"asking {self.slot.device} for its memory ended without an answer ({words})",
                hint=_last_line(child.log_tail()) or MEMORY_HINT,
            )
        assert isinstance(answer.value, GpuRoom | None)
        return answer.value

    def __call__(
        self, spec: RunSpec, size: int, memory_bytes: int, hear: Callable[[Progress], None]
    ) -> Trial:
        """Tries a run as it is.

        Args:
            spec: the run, with the size laid in.
            size: what it is called.
            memory_bytes: that there may be.
            hear: told how far it is.
        """
        task = TryTask(spec=spec, device=self.slot.device, source=self._source, memory_bytes=memory_bytes)
        child = self._started(task)
        phase = "start"

        def heard(event: Progress) -> None:
            nonlocal phase
            phase = event.phase
            hear(event)

        answer = self._answer(child, spec.limits.run_seconds, heard)
        seconds = child.running_s()
        if isinstance(answer, Result):
            assert isinstance(answer.value, Tried)
            return trial_of(answer.value, size, memory_bytes, seconds)
        on_host = not self.slot.device.startswith("cuda")
        ended, message = _without_answer(answer, child, spec.limits.run_seconds, on_host=on_host)
        return Trial(size=size, ended=ended, seconds=seconds, phase=phase, message=message)

    def _started(self, task: Task) -> Child:
        """Waits for the device, where another peprof process has it."""
        log_path = Path(self._directory.name) / "log.txt"
        while True:
            child = self._executor.start(task, slot=self.slot, log_path=log_path)
            if child is not None:
                return child
            if not self._waited:
                self._waited = True
                self._notice(f"another peprof is measuring on {self.slot.device}: waiting until it is done")
            time.sleep(POLL_S)

    def _answer(
        self, child: Child, limit_s: float | None, hear: Callable[[Progress], None]
    ) -> Result | Raised | Exit | None:
        """What a process answered, or how it ended; ``None`` where it took too long and was ended."""
        while True:
            for _, message in self._executor.receive(POLL_S):
                if isinstance(message, Progress):
                    hear(message)
                elif isinstance(message, Result | Raised):
                    self._executor.finish(child)
                    return message
                elif isinstance(message, Exit):
                    return message
            if limit_s is not None and child.running_s() >= limit_s:
                self._executor.kill(child)
                return None


def _last_line(text: str) -> str:
    """What an error says, without the way there."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def trial_of(tried: Tried, size: int, memory_bytes: int, seconds: float) -> Trial:
    """An answer, held to what there may be: a device without a pool lets a step have more."""
    if tried.failure is not None:
        return Trial(
            size=size,
            ended="oom" if tried.status == "oom" else "failed",
            seconds=seconds,
            phase=tried.failure.phase,
            message=f"{tried.failure.kind}: {tried.failure.message}",
        )
    assert tried.peak_bytes is not None
    return Trial(
        size=size,
        ended="fits" if tried.peak_bytes <= memory_bytes else "over",
        seconds=seconds,
        peak_bytes=tried.peak_bytes,
        reserved_bytes=tried.reserved_bytes,
        unowned_bytes=tried.unowned_bytes,
        alloc_retries=tried.alloc_retries,
    )


def _without_answer(
    answer: Raised | Exit | None, child: Child, limit_s: float | None, *, on_host: bool
) -> tuple[Ended, str]:
    """What a process's end means where it gave no answer.

    Args:
        answer: what came instead; ``None`` for nothing in time.
        child: the process.
        limit_s: the time it had.
        on_host: whether what was tried is the host's memory, for which alone the system kills.
    """
    if answer is None:
        return "timeout", f"stopped after {limit_s:g} s (limits.run_seconds)"
    if isinstance(answer, Raised):
        return "failed", answer.error.message
    if answer.code == _KILLED and on_host:
        return "killed", "killed by SIGKILL, as the system does when memory runs out"
    tail = " ".join(child.log_tail().split())[-_LAST_WORDS:]
    words = f"the process ended without an answer: {exit_words(answer.code)}"
    return "died", f"{words}; its last words: {tail}" if tail else words
