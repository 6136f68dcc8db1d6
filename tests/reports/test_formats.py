import pytest

from peprof.reports.formats import (
    human_bytes,
    human_clock,
    human_count,
    human_percent,
    human_ratio,
    human_seconds,
    significant,
)

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
