import numpy as np
import pytest
from scipy import stats

from peprof.results.crossed import (
    SeedNoise,
    estimate,
    seed_noise,
    squares_of_answers,
    squares_of_differences,
)


def packed(right):
    return int.from_bytes(np.packbits(right, bitorder="little").tobytes(), "little")


def answers(rng, seeds, examples, share=0.8):
    difficulty = rng.normal(size=examples)
    level = stats.norm.ppf(share) * np.sqrt(2)
    return np.array([level + difficulty + rng.normal(size=examples) > 0 for _ in range(seeds)])


def by_definition(table):
    """Mean squares of a two-way table without repetition, from its means."""
    seeds, examples = table.shape
    grand, rows, columns = table.mean(), table.mean(axis=1), table.mean(axis=0)
    rest = table - rows[:, None] - columns[None] + grand
    return (
        examples * ((rows - grand) ** 2).sum() / (seeds - 1),
        seeds * ((columns - grand) ** 2).sum() / (examples - 1),
        (rest**2).sum() / ((seeds - 1) * (examples - 1)),
    )


@pytest.mark.parametrize(("seeds", "examples"), [(2, 3), (2, 872), (5, 101)])
def test_mean_squares_are_the_definition(seeds, examples):
    rng = np.random.default_rng(seeds)
    first, second = answers(rng, seeds, examples), answers(rng, seeds, examples)
    alone = squares_of_answers([packed(row) for row in first], examples)
    assert (alone.of_seeds, alone.of_examples, alone.of_rest) == pytest.approx(by_definition(first * 1.0))
    assert alone.mean == pytest.approx(first.mean())
    both = squares_of_differences([packed(row) for row in first], [packed(row) for row in second], examples)
    assert (both.of_seeds, both.of_examples, both.of_rest) == pytest.approx(
        by_definition(first * 1.0 - second)
    )
    assert both.mean == pytest.approx(first.mean() - second.mean())


def test_without_noise_of_seeds_the_examples_alone_count():
    """The estimate is then that of a t test on each example's mean over the seeds."""
    rng = np.random.default_rng(1)
    table = answers(rng, 3, 400)
    squares = squares_of_answers([packed(row) for row in table], 400)
    found = estimate(squares, SeedNoise(variance=0.0, degrees_of_freedom=1000), methods=1)
    means = table.mean(axis=0)
    assert found.standard_error == pytest.approx(stats.sem(means))
    wanted = stats.t.interval(0.95, 399, means.mean(), stats.sem(means))
    assert (found.interval().low, found.interval().high) == pytest.approx(wanted)


def test_the_degrees_of_freedom_are_hilliss_where_seeds_are_noisy():
    """Hillis 2007: (MS_s + max(MS_e - MS_r, 0))^2 / (MS_s^2 / (seeds - 1)), of one method's own seeds."""
    rng = np.random.default_rng(4)
    table = answers(rng, 4, 300) & (rng.random((4, 300)) < np.array([0.99, 0.9, 0.8, 0.95])[:, None])
    squares = squares_of_answers([packed(row) for row in table], 300)
    of_seeds, of_examples, rest = by_definition(table * 1.0)
    assert of_seeds > rest
    found = estimate(squares, seed_noise([squares]), methods=1)
    variance = of_seeds + max(of_examples - rest, 0)
    assert found.standard_error == pytest.approx(np.sqrt(variance / 1200))
    assert found.degrees_of_freedom == pytest.approx(3 * variance**2 / of_seeds**2)


def test_noise_of_seeds_is_found_again():
    rng = np.random.default_rng(5)
    methods = []
    for _ in range(200):
        levels = rng.normal(0.8, 0.03, size=3)
        methods.append(squares_of_answers([packed(rng.random(900) < level) for level in levels], 900))
    found = seed_noise(methods)
    assert found.degrees_of_freedom == 400
    assert found.variance == pytest.approx(0.03**2, rel=0.15)
    quiet = seed_noise([squares_of_answers([packed(rng.random(900) < 0.8)] * 2, 900)])
    assert quiet == SeedNoise(variance=0.0, degrees_of_freedom=1)


def test_answers_that_are_all_alike_have_no_noise():
    same = squares_of_answers([packed(np.ones(8, bool))] * 2, 8)
    found = estimate(same, SeedNoise(variance=0.0, degrees_of_freedom=1), methods=1)
    assert (found.mean, found.standard_error, found.p_value) == (1.0, 0.0, 0.0)
