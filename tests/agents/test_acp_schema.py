"""The types of the Agent Client Protocol, asked for by several agents at once."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.agents.acp import schema
from tests.kit.until import until

SLOW = "from tests.kit.until import pause\npause(0.2)\nWORD = 1\n"


def test_agents_that_begin_at_once_all_get_the_whole_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = "slowly_loaded_words"
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    (tmp_path / package / "schema.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(schema, "PACKAGE", package)
    try:
        with ThreadPoolExecutor() as threads:
            first = threads.submit(schema.load_schema)
            until(lambda: f"{package}.schema" in sys.modules, "the module is being loaded")
            second = threads.submit(lambda: schema.load_schema().WORD)
            assert second.result() == 1
            assert first.result().WORD == 1
        assert package not in sys.modules
    finally:
        sys.modules.pop(f"{package}.schema", None)
