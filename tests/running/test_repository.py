"""Which commit a run was at: git's own answers in repositories made here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from peprof.devices import open_device
from peprof.running.environment import describe_environment
from peprof.running.repository import commit_of


def git(directory: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=directory, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where tests run in a hook
        monkeypatch.delenv(name, raising=False)
    directory = tmp_path / "repository"
    directory.mkdir()
    git(directory, "init", "--quiet")
    (directory / "kept.py").write_text("x = 1\n")
    git(directory, "add", "kept.py")
    git(directory, "commit", "--quiet", "-m", "first")
    return directory


def test_the_commit_and_whether_something_was_changed_since(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    assert len(commit) == 40
    (repository / "results").mkdir()
    (repository / "results" / "new.txt").write_text("not kept by git")
    assert commit_of(repository) == (commit, False)
    assert commit_of(repository / "results") == (commit, False)
    (repository / "kept.py").write_text("x = 2\n")
    assert commit_of(repository) == (commit, True)


def test_asking_changes_nothing(repository: Path) -> None:
    index = repository / ".git" / "index"
    os.utime(repository / "kept.py", (1, 1))  # git would like to write down that this is the same content
    before = index.read_bytes()
    commit_of(repository)
    assert index.read_bytes() == before


def test_nothing_is_known_without_repository_commit_or_git(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_of(tmp_path) == (None, None)
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "--quiet")
    assert commit_of(empty) == (None, None)
    (repository / ".git" / "HEAD").write_text("torn")
    assert commit_of(repository) == (None, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(repository) == (None, None)


@pytest.mark.skipif(os.name == "nt", reason="a script as a program")
def test_a_git_that_hangs_is_not_waited_for(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    slow = programs / "git"
    slow.write_text(
        f"#!{sys.executable}\nimport sys, time\n"
        "print('a' * 40) if 'rev-parse' in sys.argv else time.sleep(60)\n"
    )
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr("peprof.running.repository._TIMEOUT_S", 0.5)
    assert commit_of(repository) == ("a" * 40, None)


def test_an_environment_has_the_working_directorys_commit(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    environment = describe_environment(open_device("cpu"))
    assert environment.git_commit == git(repository, "rev-parse", "HEAD")
    assert environment.git_dirty is False
