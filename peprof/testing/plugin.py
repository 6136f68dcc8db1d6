"""The plugin as pytest sees it. Every pytest loads it: it imports what it needs when a test uses it.

::

    @pytest.mark.limit_peak_memory("24 MB")
    def test_a_step_fits():
        step(batch)

    def test_a_step(peprof, benchmark):
        profile = peprof.profile_step(model, batch, step)
        benchmark(step, batch)
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from peprof.testing.measuring import StepMeasurements

MARK = "limit_peak_memory"
_USE = f'@pytest.mark.{MARK}("24 MB")'
_LIMIT_BYTES = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Makes the mark known."""
    config.addinivalue_line(
        "markers",
        f"{MARK}(size): the test fails if tensors that it allocates take more than that at once, on any "
        'device: "24 MB", "1.5 GiB" or a number of bytes; what fixtures made doesn\'t count (peprof)',
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Reads the limit, so that a misspelt one is an error of the test's set-up."""
    mark = item.get_closest_marker(MARK)
    if mark is None:
        return
    from peprof.errors import UsageError
    from peprof.testing.sizes import parse_bytes

    wrong = ""
    try:
        if len(mark.args) != 1 or mark.kwargs:
            raise UsageError("it takes one size and nothing else", hint=f"Write {_USE}.")
        item.stash[_LIMIT_BYTES] = parse_bytes(mark.args[0])
    except UsageError as error:
        wrong = f"{MARK}: {error.message}. {error.hint}"
    if wrong:  # not from within the handling of an error, which pytest would show too
        pytest.fail(wrong, pytrace=False)
    if "benchmark" in getattr(item, "fixturenames", ()):
        warnings.warn(
            pytest.PytestWarning(
                f"{item.nodeid}: its times are too long, since {MARK} watches its tensors meanwhile: "
                "benchmark in a test of its own"
            ),
            stacklevel=1,
        )


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Watches a test that has a limit; its own failure counts more."""
    limit_bytes = item.stash.get(_LIMIT_BYTES, None)
    if limit_bytes is None:
        return (yield)
    from peprof.testing.limiting import PeakLimit

    with PeakLimit(limit_bytes) as limit:
        result = yield
    for device, peak_bytes in limit.peaks().items():
        item.user_properties.append((f"peak_allocated_bytes[{device}]", peak_bytes))
    excess = limit.excess()
    if excess is not None:
        pytest.fail(str(excess), pytrace=False)
    return result


@pytest.fixture
def peprof(request: pytest.FixtureRequest) -> StepMeasurements:
    """Profiles and times training steps; beside pytest-benchmark's fixture, its report has the figures.

    ``peprof.profile_step(model, batch, step)`` and ``peprof.time_step(model, batch, step)``.
    """
    from peprof.testing.measuring import StepMeasurements

    benchmark = request.getfixturevalue("benchmark") if "benchmark" in request.fixturenames else None
    return StepMeasurements(
        getattr(benchmark, "extra_info", None),
        watched=request.node.get_closest_marker(MARK) is not None,
    )
