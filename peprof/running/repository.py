"""Which commit the code around a run was at, as git tells."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_TIMEOUT_S = 2.0
"""A repository on a slow file system must not hold up a run: what isn't known by then is left out."""


def commit_of(directory: Path) -> tuple[str | None, bool | None]:
    """The commit of a directory's repository, and whether files that git keeps were changed since.

    Asked of git itself, which takes no lock, writes nothing and starts no watcher for it.

    Args:
        directory: anywhere within a working tree.

    Returns:
        the whole hash, and whether there are changes; ``None`` for what git can't say: where it isn't
        installed, there is no repository, it has no commit yet, it isn't trusted, or it takes too long.
    """
    commit = _git(directory, "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return None, None
    changes = _git(directory, "status", "--porcelain", "--untracked-files=no")
    return commit, None if changes is None else bool(changes)


def _git(directory: Path, *arguments: str) -> str | None:
    """What git prints; ``None`` when it fails."""
    try:
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", *arguments],
            cwd=directory,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
