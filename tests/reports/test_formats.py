import pytest

from peprof.reports.formats import (
    human_bytes,
    human_clock,
    human_count,
    human_energy,
    human_metric,
    human_percent,
    human_ratio,
    human_seconds,
    metric_header,
    metric_words,
    signed,
    significant,
)
from peprof.suite.metrics import METRICS

KIB, MIB, GIB = 1024, 1024**2, 1024**3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (17, "17 B"),
        (1023, "1023 B"),
        (KIB, "1.00 KiB"),
        (312 * MIB, "312 MiB"),
        (1.5 * GIB, "1.50 GiB"),
        (15.96 * GIB, "16.0 GiB"),
        (1023.4 * MIB, "1023 MiB"),
        (1023.6 * MIB, "1.00 GiB"),
        (9.999 * MIB, "10.0 MiB"),
        (99.96 * MIB, "100 MiB"),
        (5000 * 1024 * GIB, "5000 TiB"),
    ],
)
def test_bytes(value, text):
    assert human_bytes(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.00 µs"),
        (8.5e-4, "850 µs"),
        (0.0009996, "1.00 ms"),
        (0.0123, "12.3 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (59.9, "59.9 s"),
        (59.96, "1.00 min"),
        (750, "12.5 min"),
        (3599, "1.00 h"),
        (11520, "3.20 h"),
        (3_600_000, "1,000 h"),
    ],
)
def test_seconds(value, text):
    assert human_seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (768, "768"),
        (27_648, "27.6K"),
        (592_130, "592K"),
        (999_499, "999K"),
        (999_600, "1.00M"),
        (66_362_880, "66.4M"),
        (1_235_814_400, "1.24B"),
        (8_030_261_248, "8.03B"),
    ],
)
def test_counts(value, text):
    assert human_count(value) == text


def test_shares_ratios_clocks_and_plain_numbers():
    assert [human_percent(share) for share in (0, 0.9059, 1)] == ["0.0", "90.6", "100.0"]
    assert [human_ratio(value) for value in (0.004, 0.55, 1, 9.994, 9.996, 120.4)] == [
        "0.00x",
        "0.55x",
        "1.00x",
        "9.99x",
        "10.0x",
        "120.4x",
    ]
    assert [human_clock(value) for value in (-3, 0, 42.4, 59.6, 725, 3725)] == [
        "0:00",
        "0:00",
        "0:42",
        "1:00",
        "12:05",
        "1:02:05",
    ]
    assert [significant(value) for value in (1.234, 9.996, 12.34, 99.96, 1234.5)] == [
        "1.23",
        "10.0",
        "12.3",
        "100",
        "1,234",
    ]


@pytest.mark.parametrize(
    ("joules", "text"),
    [
        (0, "0.00 mJ"),
        (0.0355, "35.5 mJ"),
        (0.9997, "1.00 J"),
        (12.5, "12.5 J"),
        (999.7, "1.00 kJ"),
        (30_000, "30.0 kJ"),
        (3.6e6, "3.60 MJ"),
        (7.2e9, "7,200 MJ"),
    ],
)
def test_energy(joules, text):
    assert human_energy(joules) == text


@pytest.mark.parametrize(
    ("name", "value", "number", "words", "header"),
    [
        ("accuracy", 0.9059, "90.6", "accuracy 90.6 %", ("accuracy", "%")),
        ("macro_f1", 0.5, "50.0", "macro f1 50.0 %", ("macro f1", "%")),
        ("matthews", -0.0612, "−6.1", "matthews −6.1", ("matthews", "× 100")),
        ("pearson", -0.0001, "0.0", "pearson 0.0", ("pearson", "× 100")),
        ("perplexity", 1234.5, "1,234", "perplexity 1,234", ("perplexity",)),
        ("mse", 0.00123, "0.00123", "mse 0.00123", ("mse",)),
    ],
)
def test_metrics(name, value, number, words, header):
    metric = METRICS[name]
    assert (human_metric(metric, value), metric_words(metric, value)) == (number, words)
    assert metric_header(metric) == header


def test_signs():
    assert [signed("1.5", value) for value in (1.5, -1.5)] == ["+1.5", "−1.5"]
    assert signed("0.0", -0.00001) == "0.0"
    assert [signed("2", value, plus=False) for value in (2, -2)] == ["2", "−2"]
