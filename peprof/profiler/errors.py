"""What the ledger can't do, said clearly."""

from __future__ import annotations

from peprof.errors import PeprofError


class ProfileError(PeprofError, ValueError):
    """A step can't be profiled as asked: what is wrong, and in the hint what to do."""
