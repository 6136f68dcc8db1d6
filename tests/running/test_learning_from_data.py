"""A method that looks at training examples before training is given them by the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from peprof.running.runner import run_suite
from peprof.suite.loading import load_suite
from tests.running.helpers import Listener, write_suite


@pytest.mark.slow
def test_a_ladder_is_pruned_by_the_suites_own_training_data(tmp_path: Path) -> None:
    """Without a single example pruning fails; and it makes another run than random weights do."""
    path = write_suite(
        tmp_path,
        'name = "lst"\nreduction = 4',
        'name = "lst"\nlabel = "pruned"\nreduction = 4\ninit = "pruned"\nimportance_examples = 11',
    )
    suite = load_suite(path)
    random, pruned = run_suite(suite, results=tmp_path / "r", device="cpu", observer=Listener()).records
    assert (random.status, pruned.status) == ("ok", "ok"), pruned.failure
    assert random.parameters is not None and random.parameters == pruned.parameters
    assert random.full is not None and pruned.full is not None
    assert random.full.final_loss != pruned.full.final_loss
