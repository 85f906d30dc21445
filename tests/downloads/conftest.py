from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.downloads.hub import Hub, running_hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A stand-in for the hub, alone on its port."""
    with running_hub() as running:
        yield running
