from __future__ import annotations

import pytest

from peprof.errors import UsageError
from peprof.testing.sizes import parse_bytes


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("24 MB", 24_000_000),
        ("24 MiB", 24 * 2**20),
        ("24MB", 24_000_000),
        ("1.5 GB", 1_500_000_000),
        ("1.5 GiB", 3 * 2**29),
        (" 0.1 GB ", 100_000_000),  # exact, as no float would be
        ("3 kB", 3_000),
        ("3 KB", 3_000),
        ("3 KiB", 3_072),
        ("2 TB", 2 * 10**12),
        ("2 TiB", 2**41),
        ("512 B", 512),
        ("512", 512),
        ("1.7 B", 1),
        (65_536, 65_536),
    ],
)
def test_sizes(size: object, count: int) -> None:
    assert parse_bytes(size) == count


@pytest.mark.parametrize(
    ("size", "wrong"),
    [
        ("24 mb", "'24 mb' has the unknown unit 'mb' (did you mean 'MB'?)"),
        ("24 mib", "'24 mib' has the unknown unit 'mib' (did you mean 'MiB'?)"),
        ("24 megabytes", "'24 megabytes' has the unknown unit 'megabytes'"),
        ("MB", "'MB' is no size"),
        ("", "'' is no size"),
        ("1,5 GB", "'1,5 GB' is no size"),
        ("-1 MB", "'-1 MB' is no size"),
        ("nan GB", "'nan GB' is no size"),
        ("0 MB", "a size of '0 MB' leaves room for nothing"),
        ("0.5 B", "a size of '0.5 B' leaves room for nothing"),
        (0, "a size of 0 leaves room for nothing"),
        (-5, "a size of -5 leaves room for nothing"),
        (1.5, "1.5 is no size"),
        (True, "True is no size"),
        (None, "None is no size"),
    ],
)
def test_what_is_no_size(size: object, wrong: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_bytes(size)
    assert caught.value.message == wrong
    assert '"24 MB" (24,000,000 bytes)' in str(caught.value.hint)
