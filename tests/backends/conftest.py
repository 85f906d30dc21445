from __future__ import annotations

import pytest

from daemon.backends import keeper_process, keeping
from tests.backends.backend_house import DEADLINE


@pytest.fixture(autouse=True)
def keepers_may_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """To leave: a busy machine may need more than the daemon waits for them."""
    for module in (keeping, keeper_process):
        monkeypatch.setattr(module, "CLOSE_DEADLINE", DEADLINE)
