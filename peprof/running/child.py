"""A child process from its first line to its last."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path

from peprof.errors import PeprofError
from peprof.events import Progress
from peprof.gpus.room import GpuRoom
from peprof.running.tasks import (
    Prepared,
    PrepareTask,
    Provisional,
    Raised,
    Result,
    RoomTask,
    RunResult,
    Say,
    Task,
    Tried,
    TryTask,
)

SECONDS_BETWEEN_EVENTS = 0.5
"""Signs of life are rarer than steps: each costs the parent a redraw, on processors that are being timed."""


class Speaker:
    """Sends progress to the parent: notes, and one event in ``SECONDS_BETWEEN_EVENTS`` for the same phase."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._last_s = float("-inf")
        self._phase = ""

    def __call__(self, event: Progress) -> None:
        """Sends the event, or drops it when one was sent a moment ago."""
        now = time.monotonic()
        if event.note is None and event.phase == self._phase and now - self._last_s < SECONDS_BETWEEN_EVENTS:
            return
        self._last_s, self._phase = now, event.phase
        self._connection.send(event)


def child_main(task: Task, connection: Connection, log_path: str) -> None:
    """Runs a task and answers over ``connection``; whatever libraries print goes to the log.

    An exception that is not peprof's own ends the process with a traceback in the log: the parent reads both.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with_parent()
    _redirect_output(Path(log_path))
    _quieten_libraries()
    try:
        try:
            answer: Result | Raised = Result(
                _perform(task, Speaker(connection), lambda result: connection.send(Provisional(result)))
            )
        except PeprofError as error:
            answer = Raised(error)
        connection.send(answer)
    except (BrokenPipeError, ConnectionResetError):
        os._exit(1)  # the parent is gone: nobody is left to tell
    sys.stdout.flush()
    sys.stderr.flush()
    with suppress(OSError):
        connection.close()


def _perform(
    task: Task, say: Say, keep: Callable[[RunResult], None]
) -> Prepared | RunResult | Tried | GpuRoom | None:
    """Does the work. What does it imports torch, which the parent, who imports this file, must not."""
    if isinstance(task, PrepareTask):
        from peprof.running.preparing import prepare

        return prepare(task.loaded, device=task.device, fetch=task.fetch, say=say)
    if isinstance(task, TryTask | RoomTask):
        from peprof.running.trying import room_of, try_size

        return try_size(task, say) if isinstance(task, TryTask) else room_of(task)
    from peprof.running.worker import run

    return run(
        task.spec,
        device_name=task.device,
        source=task.source,
        attempt=task.attempt,
        say=say,
        keep=keep,
        adapter_directory=task.adapter_directory,
        checkpoint_directory=task.checkpoint_directory,
        after_failure=task.after_failure,
        run_directory=task.run_directory,
        trackers=task.trackers,
        timing_only=task.timing_only,
        rounds=task.rounds,
    )


def _die_with_parent() -> None:
    """Ends this process as soon as the parent is gone, however that died: no child is left running."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="peprof-parent-watch", daemon=True).start()


def _quieten_libraries() -> None:
    """No progress bars in the log, and no lock between processes for them.

    tqdm's default lock is a named semaphore: a child that is killed would leave it behind, with a warning on
    the user's terminal.
    """
    import datasets
    from tqdm import tqdm
    from transformers.utils import logging

    tqdm.set_lock(threading.RLock())
    datasets.disable_progress_bars()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _redirect_output(path: Path) -> None:
    """Sends the process's output, that of C libraries included, to a file beside the run's record."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except FileNotFoundError:
        os._exit(
            1
        )  # its folder went with a parent that has been interrupted meanwhile and tells of that itself
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
