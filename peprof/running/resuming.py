"""How far an unfinished run got, in ``checkpoint/`` beside its record, and what the next attempt makes of it.

::

    checkpoint/short.json     what the short phase found
    checkpoint/training.pt    the full phase's last kept state
    checkpoint/resumed        number of the attempt that went on from it and hasn't kept a newer one

Both are used only by the same run on the same kind of device, with the same versions and the same source of
the method: otherwise one record would hold numbers of two. What can't be used is removed, and a warning in
the record says why.

An attempt that was stopped or killed (SIGKILL, SIGTERM) says nothing of the state that it began from, so the
next one begins there too. One that went on from a state and then failed by itself, before it kept a newer
one, may have failed because of that state: the next attempt trains from the start. A run that always fails at
one step therefore fails there by turns from its checkpoint and from the start, as often as it is asked for,
and never stands still.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from peprof.breakdown.values import StepProfile
from peprof.results.atomic import remove_temporary_files, replacing
from peprof.results.record import Environment, Piece, ShortResult
from peprof.running.rounds import ELSEWHERE
from peprof.training.checkpoints import CheckpointError, check_conditions, read_checkpoint, write_checkpoint
from peprof.training.moving_state import MovingState, StateMismatchError
from peprof.training.training_state import Training

SHORT_FILE = "short.json"
TRAINING_FILE = "training.pt"
RESUMED_FILE = "resumed"
SHORT_VERSION = 1


class KeptShort(Piece):
    """What the short phase found.

    Args:
        version: of this file.
        run_id: of the run.
        conditions: under which it was measured.
        short: its figures.
        warnings: about them.
        memory: of one step.
    """

    version: int = SHORT_VERSION
    run_id: str
    conditions: dict[str, str]
    short: ShortResult
    warnings: tuple[str, ...] = ()
    memory: StepProfile | None = None


class RunCheckpoint:
    """The ``checkpoint/`` of one run, for one attempt. A full disk costs what would be kept, not the run.

    Args:
        directory: need not exist.
        run_id: of the run.
        attempt: number of this one, from 1.
        after_failure: whether the attempt before it has a record, and failed by itself.
        conditions: of this attempt, see ``conditions_of``.
        warn: told, for the record, what couldn't be used and what couldn't be kept.
    """

    def __init__(
        self,
        directory: Path,
        *,
        run_id: str,
        attempt: int,
        after_failure: bool,
        conditions: dict[str, str],
        warn: Callable[[str], None],
    ) -> None:
        self._directory = directory
        self._run_id, self._attempt, self._after_failure = run_id, attempt, after_failure
        self._conditions = conditions
        self._warn = warn
        self._has_warned_of_disk = False
        with suppress(OSError):
            remove_temporary_files(directory)

    def short(self) -> KeptShort | None:
        """What the short phase of an earlier attempt found, if it may stand in this one's record."""
        path = self._directory / SHORT_FILE
        try:
            kept = KeptShort.model_validate_json(path.read_bytes())
            if (kept.version, kept.run_id) != (SHORT_VERSION, self._run_id):
                raise CheckpointError("it is of another run or version")
            check_conditions(kept.conditions, self._conditions)
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            self._refuse(path, "the short phase was measured again", "it is damaged")
        except CheckpointError as error:
            self._refuse(path, "the short phase was measured again", error.message)
        else:
            return kept
        return None

    def keep_short(self, short: ShortResult, warnings: tuple[str, ...], memory: StepProfile | None) -> None:
        """Keeps what the short phase found."""
        kept = KeptShort(
            run_id=self._run_id,
            conditions=self._conditions,
            short=short,
            warnings=warnings,
            memory=memory,
        )
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with replacing(self._directory / SHORT_FILE) as file:
                file.write(kept.model_dump_json().encode() + b"\n")
        except OSError as error:
            self._say_not_kept(f"can't write into '{self._directory}': {error.strerror or error}")

    def put_back(self, moving: MovingState) -> Training | None:
        """Restores the training that an earlier attempt has kept.

        Args:
            moving: of the training that was built for this attempt.

        Returns:
            What it had found; ``None`` to train from the start.

        Raises:
            StateMismatchError: it can't be restored and was removed; what was built is of no use any more.
        """
        path, resumed = self._directory / TRAINING_FILE, self._directory / RESUMED_FILE
        from_the_start = "the training began anew and not from its checkpoint"
        try:
            if self._after_failure and resumed.read_text() == str(self._attempt - 1):
                self._refuse(path, from_the_start, "the attempt that went on from it failed")
                return None
        except (OSError, UnicodeDecodeError):
            pass  # nobody went on from it, as far as can be known
        try:
            content = read_checkpoint(path, run_id=self._run_id, conditions=self._conditions)
        except CheckpointError as error:
            self._refuse(path, from_the_start, error.message)
            return None
        if content is None:
            return None
        with suppress(OSError):
            resumed.write_text(str(self._attempt))
        try:
            moving.put_back(content["moving"])
            return Training.of_state(content["training"])
        except (StateMismatchError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = error.message if isinstance(error, StateMismatchError) else f"it doesn't fit: {error!r}"
            self._refuse(path, from_the_start, reason)
            raise StateMismatchError(reason) from error

    def keep_training(self, moving: MovingState, training: Training) -> None:
        """Keeps a training as it is now, in place of what was kept before."""
        content = {"moving": moving.taken(), "training": training.as_state()}
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            (self._directory / RESUMED_FILE).unlink(missing_ok=True)
            write_checkpoint(
                self._directory / TRAINING_FILE,
                content,
                run_id=self._run_id,
                conditions=self._conditions,
            )
        except OSError as error:
            self._say_not_kept(f"can't write into '{self._directory}': {error.strerror or error}")
        except CheckpointError as error:
            self._say_not_kept(error.message)

    def _refuse(self, path: Path, consequence: str, reason: str) -> None:
        self._warn(f"{consequence}: {reason}")
        with suppress(OSError):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _say_not_kept(self, reason: str) -> None:
        if not self._has_warned_of_disk:
            self._has_warned_of_disk = True
            self._warn(f"not every checkpoint was kept: {reason}")


class PeriodicKeeper:
    """Keeps a training once in so many seconds.

    Args:
        every_s: seconds between two checkpoints.
        checkpoint: where.
        moving: of the training.
    """

    def __init__(self, every_s: float, checkpoint: RunCheckpoint, moving: MovingState) -> None:
        self._every_s = every_s
        self._checkpoint = checkpoint
        self._moving = moving

    def due(self, elapsed_s: float) -> bool:
        """Whether so many seconds are over."""
        return elapsed_s >= self._every_s

    def keep(self, training: Training) -> None:
        """Keeps it."""
        self._checkpoint.keep_training(self._moving, training)


def conditions_of(environment: Environment, method: object) -> dict[str, str]:
    """What must be equal in all attempts of one record: kind of device, versions, the method's source.

    Args:
        environment: of this attempt.
        method: the method.
    """
    facts = environment.model_dump(exclude=set(ELSEWHERE))
    conditions = {name: str(value) for name, value in facts.items()}
    return conditions | {"the method's source": source_digest(type(method))}


def source_digest(kind: type) -> str:
    """Digest of the package that a class is from: another method may hide behind the same name."""
    package = sys.modules[kind.__module__.partition(".")[0]]
    paths = [Path(path) for path in getattr(package, "__path__", ())]
    files = sorted(file for path in paths for file in path.rglob("*.py"))
    if not paths and getattr(package, "__file__", None) is not None:
        files = [Path(str(package.__file__))]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\n".encode())
        with suppress(OSError):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
