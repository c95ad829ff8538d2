"""A served API for each test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.kit.served import Served, serve_api


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """Return a server on real sockets over a real store."""
    async with serve_api(tmp_path) as running:
        yield running
