"""README's method of one's own, written to disk as README says and run from another distribution."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.running.helpers import command

README = Path(__file__).parents[2] / "README.md"


def block(marker: str) -> str:
    """The code block after a marker."""
    found = re.search(rf"<!-- your-method: {marker} -->\n```\w+\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def installed(folder: Path) -> dict[str, str]:
    """An environment in which README's distribution is installed, as pip would leave it."""
    (folder / "my_methods.py").write_text(block("my_methods.py"))
    group = tomllib.loads(block("entry point"))["project"]["entry-points"]["peprof.methods"]
    information = folder / "my_methods-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: my-methods\nVersion: 1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in group.items())
    (information / "entry_points.txt").write_text(f"[peprof.methods]\n{lines}")
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


SUITE = """
name = "own"
phases = ["short"]
[model]
name = "distilbert-base-uncased"
weights = "random"
[data]
name = "peprof/reviews"
max_length = 8
train_rows = 64
validation_rows = 32
[train]
batch_size = 2
[short]
warmup_steps = 1
steps = 3
[[methods]]
name = "embeddings"
{option}
"""


@pytest.mark.slow
def test_the_example_runs_as_it_stands(tmp_path: Path) -> None:
    environment = installed(tmp_path)
    page = subprocess.run(
        command("methods", "embeddings"), env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "train the position embeddings too." in page and "my-methods" in page

    suite = tmp_path / "own.toml"
    suite.write_text(SUITE.format(option=""))
    subprocess.run(
        command("run", suite, "--results", tmp_path / "results"),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    (path,) = (tmp_path / "results").rglob("record.json")
    record = json.loads(path.read_text())
    # DistilBERT's words and width; its two classes' head: 768 x 768 + 768 and 768 x 2 + 2.
    assert record["parameters"]["trainable_backbone"] == 30522 * 768
    assert record["parameters"]["trainable_head"] == 768 * 768 + 768 + 768 * 2 + 2


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("postions = true", "did you mean 'positions'?"),
        ("positions = 3", "positions: "),
    ],
)
def test_a_wrong_option_is_told_before_anything_runs(tmp_path: Path, option: str, says: str) -> None:
    environment = installed(tmp_path)
    suite = tmp_path / "own.toml"
    suite.write_text(SUITE.format(option=option))
    done = subprocess.run(
        [sys.executable, "-m", "peprof", "run", str(suite), "--dry-run"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert says.lower() in done.stderr.lower() and "Traceback" not in done.stderr
