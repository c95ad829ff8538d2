"""The schema's SQL is found wherever the program runs from."""

from __future__ import annotations

import tomllib
from pathlib import Path

from orchestrator.journal.migration import find_scripts, scripts

ROOT = Path(__file__).parents[2]


def test_schema_is_found_in_the_package_where_it_is_installed_and_beside_it_else(tmp_path: Path) -> None:
    package = tmp_path / "orchestrator"
    (tmp_path / "migrations").mkdir()
    assert find_scripts(package) == tmp_path / "migrations"
    (package / "migrations").mkdir(parents=True)
    assert find_scripts(package) == package / "migrations"
    assert scripts("journal")
    assert scripts("logs")


def test_wheel_brings_no_package_of_a_common_name() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["orchestrator", "sandbox"]
    assert wheel["force-include"] == {"migrations": "orchestrator/migrations"}
