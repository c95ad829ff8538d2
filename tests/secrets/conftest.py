"""What this room's tests share: a repository with a base."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.secrets.stand import Stand


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    """Return a repository with one commit, and a scanner."""
    return Stand(tmp_path / "repo")
