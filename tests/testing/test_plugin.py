"""The plugin, as pytest runs it: limits and figures by formulas, and nothing where it isn't used."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch  # here, and not only within: a second import in one process fails

import peprof.testing.limiting
import peprof.testing.measuring
from peprof.breakdown.sizes import human_bytes

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _not_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pytests that are started here are no workers of the one that runs these tests."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


assert torch and peprof.testing.limiting and peprof.testing.measuring

MODEL = """
import pytest
import torch
from torch import nn

B, D, F = 6, 20, 30
WEIGHTS = 4 * (D * F + F)
STEP = WEIGHTS + 4 * B * D + 4 * B * F + 4 + 4 + WEIGHTS  # weights, x, y, loss, 1, the weights' gradients


def step():
    model = nn.Linear(D, F)
    x = torch.zeros(B, D)
    y = model(x)
    loss = y.sum()
    loss.backward()
    del x, y, loss
"""


def test_a_limit_holds_to_the_byte(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        MODEL
        + """
@pytest.mark.parametrize("limit", [
    pytest.param(STEP, marks=pytest.mark.limit_peak_memory(STEP)),
    pytest.param(STEP - 1, marks=pytest.mark.limit_peak_memory(STEP - 1)),
])
def test_step(limit):
    step()
"""
    )
    result = pytester.runpytest_inprocess("--strict-markers")
    result.assert_outcomes(passed=1, failed=1)


def test_the_message_says_the_limit_the_peak_and_whose_it_was(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        MODEL
        + """
@pytest.mark.limit_peak_memory("5 kB")
def test_step():
    step()
"""
    )
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    weights, x, y = 4 * (20 * 30 + 30), 4 * 6 * 20, 4 * 6 * 30
    peak = 2 * weights + x + y + 8
    said = "\n".join(result.outlines)
    assert f"limit  4.88 KiB (5,000 B)\n  peak   {human_bytes(peak)} ({peak:,} B), in backward, in " in said
    assert "Traceback" not in said

    def line(name: str, count: int) -> str:
        return rf"\n +{re.escape(name)} +{re.escape(human_bytes(count))} +{100 * count / peak:.1f} %"

    for name, count in (
        ("parameters.trainable", weights),
        ("gradients", weights),
        ("activations", x),
        ("temporaries.forward", y + 8),  # autograd makes the loss's gradient before it runs
        ("Linear", 2 * weights + x + y),  # which keeps x
        ("(outside the model)", 8),
    ):
        assert re.search(line(name, count), said), f"{name} {count}:\n{said}"


def test_what_is_misspelt_is_one_line_and_the_others_run(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
import pytest

@pytest.mark.limit_peak_memory("24 mb")
def test_unit(): pass

@pytest.mark.limit_peak_memory
def test_nothing(): pass

@pytest.mark.limit_peak_memory("24 MB", device="cuda")
def test_more(): pass

def test_other(): pass
"""
    )
    result = pytester.runpytest_inprocess("--tb=short")
    result.assert_outcomes(passed=1, errors=3)
    said = [line for line in result.outlines if line.startswith("limit_peak_memory: ")]
    hint = 'Write "24 MB" (24,000,000 bytes), "24 MiB" (25,165,824), "1.5 GB", or a whole number of bytes.'
    takes_one = "limit_peak_memory: it takes one size and nothing else. "
    takes_one += 'Write @pytest.mark.limit_peak_memory("24 MB").'
    assert said == [
        f"limit_peak_memory: '24 mb' has the unknown unit 'mb' (did you mean 'MB'?). {hint}",
        takes_one,
        takes_one,
    ]
    assert "During handling" not in "\n".join(result.outlines)


def test_fixtures_classes_and_failures(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
import unittest
import pytest
import torch

@pytest.fixture
def large():
    return torch.zeros(1000)

@pytest.mark.limit_peak_memory("400 B")
class TestClass:
    def test_what_a_fixture_made_does_not_count(self, large):
        torch.zeros(100)

    @pytest.mark.limit_peak_memory("399 B")
    def test_the_closest_limit_counts(self):
        torch.zeros(100)

    def test_its_own_failure_counts_more(self):
        torch.zeros(1000)
        assert 1 == 2, "its own"

class TestCase(unittest.TestCase):
    @pytest.mark.limit_peak_memory("399 B")
    def test_of_unittest(self):
        torch.zeros(100)
"""
    )
    # Without the short summary, which repeats failures, shortened at a terminal and whole under CI.
    result = pytester.runpytest_inprocess("-v", "-rN", "--junitxml=junit.xml")
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(
        ["*test_what_a_fixture_made_does_not_count PASSED*", "*its own*", "*test_of_unittest*"]
    )
    assert "\n".join(result.outlines).count("limit  399 B (399 B)") == 2
    properties = re.findall(r'property name="(.*?)" value="(.*?)"', Path("junit.xml").read_text())
    assert properties == [("peak_allocated_bytes[cpu]", "400")] * 3


BENCHMARKED = (
    MODEL
    + """
def test_step(peprof, benchmark):
    model = nn.Linear(D, F)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    x = torch.zeros(B, D)
    profile = peprof.profile_step(model, x, optimizers=optimizer)
    times = peprof.time_step(model, x, optimizers=optimizer, warmup_steps=2, steps=4)
    unmarked = peprof.time_step(model, x, lambda x: model(x).sum().backward(), steps=3, name="two phases")
    assert [set(one.phases_s) for one in times.steps] == [{"forward", "backward", "optimizer"}] * 4
    benchmark(model, x)
"""
)


@pytest.mark.slow
def test_figures_go_to_the_benchmark_of_the_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(BENCHMARKED)
    result = pytester.runpytest_inprocess("--benchmark-json=all.json", "--benchmark-max-time=0.01")
    result.assert_outcomes(passed=1)
    (one,) = json.loads(Path("all.json").read_text())["benchmarks"]
    info = one["extra_info"]
    weights, x, y = 4 * (20 * 30 + 30), 4 * 6 * 20, 4 * 6 * 30
    # The mean's gradient is one number, repeated for y without memory, divided into y's size.
    assert info["peak_categories_bytes"]["parameters.trainable"] == weights
    assert info["peak_categories_bytes"]["gradients"] == weights
    assert info["peak_categories_bytes"]["inputs"] == x
    assert info["peak_allocated_bytes"] == sum(info["peak_categories_bytes"].values())
    assert 2 * weights + x < info["peak_allocated_bytes"] <= 2 * weights + x + 2 * y + 8
    assert info["peak_source"] == "ledger"
    assert (info["timed_steps"], info["two phases.timed_steps"]) == (4, 3)
    parts = info["forward_s"] + info["backward_s"] + info["optimizer_s"]
    assert 0 < parts < 2 * info["step_s"]
    assert not {"clip_s", "two phases.forward_s"} & info.keys()


@pytest.mark.slow
def test_without_a_benchmark_the_fixture_returns_what_it_found(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        MODEL
        + """
def test_step(peprof):
    model = nn.Linear(D, F)
    optimizer = torch.optim.SGD(model.parameters())
    for _ in range(2):
        found = peprof.profile_step(model, torch.zeros(B, D), optimizers=optimizer)
    assert found.peak.categories["parameters.trainable"] == WEIGHTS
    assert peprof.time_step(model, torch.zeros(B, D), optimizers=optimizer, steps=3).clock == "perf_counter"
"""
    )
    pytester.runpytest_inprocess("-p", "no:benchmark").assert_outcomes(passed=1)


@pytest.mark.slow
def test_bad_use_of_the_fixture_is_said(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        MODEL
        + """
from peprof.errors import PeprofError

@pytest.mark.limit_peak_memory("1 GB")
def test_timed_while_watched(peprof):
    with pytest.raises(PeprofError, match="can't be timed in a test with limit_peak_memory"):
        peprof.time_step(nn.Linear(1, 1), torch.zeros(1, 1), lambda x: None)

def test_told_apart(peprof, benchmark):
    model = nn.Linear(1, 1)
    step = lambda x: model(x).sum().backward()
    benchmark(lambda: None)
    peprof.profile_step(model, torch.zeros(1, 1), step)
    peprof.profile_step(model, torch.zeros(1, 1), step, name="again")
    with pytest.raises(PeprofError, match="extra_info has peak_allocated_bytes.* already"):
        peprof.profile_step(model, torch.zeros(1, 1), step)

def test_no_step(peprof):
    with pytest.raises(ValueError, match="neither a step nor an optimizer"):
        peprof.time_step(nn.Linear(1, 1), torch.zeros(1, 1))

def test_meta(peprof):
    with pytest.raises(PeprofError, match="unknown device 'meta'"):
        peprof.time_step(nn.Linear(1, 1, device="meta"), torch.zeros(1, 1, device="meta"), lambda x: None)
"""
    )
    pytester.runpytest_inprocess("--benchmark-max-time=0.01").assert_outcomes(passed=4)


def test_times_of_a_watched_benchmark_are_warned_of(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        MODEL
        + """
@pytest.mark.limit_peak_memory("1 GB")
def test_step(benchmark):
    benchmark(lambda: None)
"""
    )
    result = pytester.runpytest_inprocess("--benchmark-max-time=0.01")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*its times are too long, since limit_peak_memory watches*"])


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        capture_output=True, text=True, cwd=folder, check=False,
    )  # fmt: skip


def test_it_imports_nothing_where_it_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(
        "import sys\n\n"
        "def test_one():\n"
        "    assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)\n"
        "    ours = {name for name in sys.modules if name.partition('.')[0] == 'peprof'}\n"
        "    assert ours == {'peprof', 'peprof.testing', 'peprof.testing.plugin'}\n"
    )
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout


def test_it_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(
        "import sys\n\n"
        "def test_one():\n    assert not any(name.startswith('peprof') for name in sys.modules)\n"
    )
    done = run(tmp_path, "-p", "no:peprof")
    assert done.returncode == 0, done.stdout


def test_the_mark_is_listed(tmp_path: Path) -> None:
    assert "@pytest.mark.limit_peak_memory(size): the test fails" in run(tmp_path, "--markers").stdout
    listed = run(tmp_path, "--fixtures", "-q").stdout
    assert re.search(r"^peprof -- .*\n    Profiles and times training steps", listed, re.MULTILINE)


@pytest.mark.slow
def test_with_xdist(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    (tmp_path / "test_one.py").write_text(
        MODEL
        + """
@pytest.mark.limit_peak_memory(STEP)
def test_fits():
    step()

@pytest.mark.limit_peak_memory(STEP - 1)
def test_does_not():
    step()
"""
    )
    done = run(tmp_path, "-n", "2", "-q")
    assert "1 failed, 1 passed" in done.stdout
    assert "more memory on cpu than limit_peak_memory allows" in done.stdout


def test_readmes_example(pytester: pytest.Pytester) -> None:
    found = re.search(r"<!-- pytest -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    pytester.makepyfile(found[1])
    result = pytester.runpytest_inprocess("--benchmark-json=all.json", "--benchmark-max-time=0.01")
    result.assert_outcomes(passed=2)
    (one,) = json.loads(Path("all.json").read_text())["benchmarks"]
    assert {"peak_allocated_bytes", "peak_categories_bytes", "step_s", "forward_s"} <= one[
        "extra_info"
    ].keys()
