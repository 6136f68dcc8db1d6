"""Fresh child processes on this machine, from a fork server that has imported torch already.

A forked child starts in a few hundredths of a second where a spawned one needs many seconds to import torch.
The server never touches a device, and neither does the parent: CUDA is first used in the child.
"""

from __future__ import annotations

import getpass
import multiprocessing
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from pathlib import Path
from time import monotonic
from typing import Any

from filelock import FileLock, Timeout

from peprof.errors import StoreError
from peprof.running.child import child_main
from peprof.running.tasks import Message, Task

PRELOAD = ("peprof.running.worker", "peprof.running.preparing")
"""What the fork server imports once for all children."""


@dataclass(frozen=True)
class Exit:
    """A child ended without an answer; ``code`` is negative for a signal."""

    code: int


@dataclass(kw_only=True, eq=False)
class Child:
    """A running child process.

    Args:
        slot: the device it has for itself.
        log_path: where its output goes.
        started_s: on the monotonic clock.
    """

    slot: str
    log_path: Path
    process: Any
    connection: Connection
    lock: FileLock
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
    share its device.
    """

    def __init__(self) -> None:
        methods = multiprocessing.get_all_start_methods()
        name = "forkserver" if "forkserver" in methods else "spawn"
        self._context: BaseContext = multiprocessing.get_context(name)
        if name == "forkserver":
            self._context.set_forkserver_preload(list(PRELOAD))
        self._children: list[Child] = []

    def start(self, task: Task, *, slot: str, log_path: Path) -> Child | None:
        """Starts a task; ``None`` when another peprof process is measuring on this slot."""
        lock = self._lock(slot)
        if lock is None:
            return None
        ours, theirs = self._context.Pipe()
        try:
            log_path.parent.mkdir(parents=True, exist_ok=True)
            log_path.unlink(missing_ok=True)
        except OSError as error:
            lock.release()
            raise StoreError(f"can't write '{log_path}': {error.strerror}") from error
        process = self._context.Process(  # type: ignore[attr-defined]
            target=child_main, args=(task, theirs, str(log_path)), daemon=True, name=f"peprof-{slot}"
        )
        process.start()
        theirs.close()  # so that the child's end is the only one left, and its death is seen
        child = Child(slot=slot, log_path=log_path, process=process, connection=ours, lock=lock)
        self._children.append(child)
        return child

    def _lock(self, slot: str) -> FileLock | None:
        name = f"peprof-{getpass.getuser()}-{slot.replace(':', '-')}.lock"
        lock = FileLock(Path(tempfile.gettempdir()) / name, blocking=False)
        try:
            lock.acquire()
        except Timeout:
            return None
        return lock

    def busy_slots(self) -> set[str]:
        """Slots that have a child."""
        return {child.slot for child in self._children}

    def receive(self, timeout_s: float) -> Iterable[tuple[Child, Message | Exit]]:
        """What children said within ``timeout_s``; after its last word, or ``Exit``, a child is gone."""
        by_connection = {child.connection: child for child in self._children}
        for ready in wait(list(by_connection), timeout=timeout_s):
            child = by_connection[ready]  # type: ignore[index]
            message: Message | Exit
            try:
                message = child.connection.recv()
            except (EOFError, ConnectionResetError):
                child.process.join()
                message = Exit(child.process.exitcode)
                self._forget(child)
            yield child, message

    def finish(self, child: Child) -> None:
        """Waits for a child that has given its result."""
        child.process.join(timeout=10)
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
            child.lock.release()

    def close(self) -> None:
        """Ends all children."""
        for child in list(self._children):
            self.kill(child)
