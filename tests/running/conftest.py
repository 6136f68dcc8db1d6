from __future__ import annotations

import pytest

from tests.running.helpers import FAULTY


@pytest.fixture(autouse=True)
def faulty_methods_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children of the fork server take their import path from this process."""
    monkeypatch.syspath_prepend(str(FAULTY))
