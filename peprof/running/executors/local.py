"""Fresh child processes on this machine, from a fork server that has imported torch already.

A forked child starts in a few hundredths of a second where a spawned one needs many seconds to import torch.
The server never touches a device, and neither does the parent: CUDA is first used in the child.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import Any

from filelock import FileLock, Timeout

from peprof.errors import StoreError
from peprof.running.child import child_main
from peprof.running.tasks import Message, Slot, Task

PRELOAD = (
    "peprof.running.worker",
    "peprof.running.preparing",
    "peprof.running.preloading",
    "peprof.tracking.tensorboard",
)
"""What the fork server imports once for all children; TensorBoard's own part takes 0.3 s."""


@dataclass(frozen=True)
class Exit:
    """A child ended without an answer; ``code`` is negative for a signal."""

    code: int


@dataclass(kw_only=True, eq=False)
class Child:
    """A running child process.

    Args:
        slot: what it has for itself; ``None`` for one that measures nothing.
        log_path: where its output goes.
        started_s: on the monotonic clock.
    """

    slot: Slot | None
    log_path: Path
    process: Any
    connection: Connection
    lock: FileLock | None
    started_s: float = field(default_factory=monotonic)

    def running_s(self) -> float:
        """Seconds since its start."""
        return monotonic() - self.started_s

    def log_tail(self, characters: int = 2000) -> str:
        """The end of what it printed."""
        try:
            return self.log_path.read_text(errors="replace")[-characters:].strip()
        except OSError:
            return ""


class LocalExecutor:
    """Runs tasks in fresh processes, one at a time on each slot.

    A slot is also locked against other peprof processes of this user on this machine: what is timed must not
    share its device. Ends all children when closed.
    """

    def __init__(self) -> None:
        methods = multiprocessing.get_all_start_methods()
        name = "forkserver" if "forkserver" in methods else "spawn"
        self._context: BaseContext = multiprocessing.get_context(name)
        if name == "forkserver":
            self._context.set_forkserver_preload(list(PRELOAD))
        self._children: list[Child] = []

    def start(self, task: Task, *, slot: Slot | None, log_path: Path) -> Child | None:
        """Starts a task; ``None`` when another peprof process is measuring on this slot.

        Raises:
            StoreError: its log can't be written, or the system starts no process.
        """
        lock = None
        if slot is not None and (lock := _locked(slot)) is None:
            return None
        try:
            log_path.parent.mkdir(parents=True, exist_ok=True)
            log_path.unlink(missing_ok=True)
            process, connection = self._started(task, log_path)
        except OSError as error:
            if lock is not None:
                lock.release()
            raise StoreError(
                f"can't start a process that logs to '{log_path}': {error.strerror or error}",
                hint=f"See who may write there and in {tempfile.gettempdir()} (TMPDIR; keep its path short).",
            ) from error
        child = Child(slot=slot, log_path=log_path, process=process, connection=connection, lock=lock)
        self._children.append(child)
        return child

    def _started(self, task: Task, log_path: Path) -> tuple[Any, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(  # type: ignore[attr-defined]
            target=child_main, args=(task, theirs, str(log_path)), daemon=True
        )
        with _without_main_module():
            if self._context.get_start_method() == "forkserver":
                with _interrupts_ignored():
                    forkserver.ensure_running()  # returns at once; its imports go on in the server
            process.start()
        theirs.close()  # so that the child's end is the only one left, and its death is seen
        return process, ours

    def busy_slots(self) -> set[Slot]:
        """Slots that have a child."""
        return {child.slot for child in self._children if child.slot is not None}

    def receive(self, timeout_s: float) -> Iterator[tuple[Child, Message | Exit]]:
        """What children said within ``timeout_s``; after ``Exit`` a child is gone."""
        by_connection = {child.connection: child for child in self._children}
        for ready in wait(list(by_connection), timeout=timeout_s):
            child = by_connection[ready]  # type: ignore[index]
            message: Message | Exit
            try:
                message = child.connection.recv()
            except (EOFError, OSError, pickle.UnpicklingError):
                # It closed its end, or died in the middle of a message.
                child.process.join(timeout=5)
                child.process.kill()
                child.process.join()
                message = Exit(child.process.exitcode)
                self._forget(child)
            yield child, message

    def finish(self, child: Child) -> None:
        """Lets a child that has given its result end; it has a moment for it."""
        child.process.join(timeout=2)
        self.kill(child)

    def kill(self, child: Child) -> None:
        """Ends a child at once. Does nothing when it has ended."""
        child.process.kill()
        child.process.join()
        self._forget(child)

    def _forget(self, child: Child) -> None:
        if child in self._children:
            self._children.remove(child)
            child.connection.close()
            if child.lock is not None:
                child.lock.release()

    def close(self) -> None:
        """Ends all children."""
        for child in list(self._children):
            self.kill(child)


def _locked(slot: Slot) -> FileLock | None:
    user = os.getuid() if hasattr(os, "getuid") else "user"
    lock = FileLock(Path(tempfile.gettempdir()) / f"peprof-{user}-{slot.lock}.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Children don't import the caller's script.

    They would run it again, up to its call of peprof, unless it is guarded by ``__name__ == "__main__"``; and
    what was typed at a prompt can't be imported at all. Nothing that is sent to a child lives in it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """The fork server inherits this: Ctrl-C reaches the whole group, and only the parent is to answer it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
