"""The supervisor says at its start what its sandbox does not hold."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from orchestrator.config import load_settings
from orchestrator.isolation import CEILINGS, find_backend


async def test_ceilings_that_nobody_enforces_are_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    environment = {"ORCHESTRATOR_HOME": str(tmp_path), "SANDBOX_ENABLED": "false"}
    with caplog.at_level(logging.WARNING, "orchestrator.isolation"):
        backend = (await find_backend(load_settings(environment, uid=os.getuid()))).backend
    said = [record.getMessage() for record in caplog.records if "ceilings" in record.getMessage()]
    loose = [what for name, what in CEILINGS.items() if name not in backend.enforced]
    assert len(said) == bool(loose)
    assert all(what in line for line in said for what in loose)
