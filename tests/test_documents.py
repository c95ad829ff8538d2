"""The documents speak of what there is: settings, tests, modules, files."""

from __future__ import annotations

import re

import pytest

from orchestrator.settings.rows import ROWS
from tests.kit.architecture import ROOT

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")),
    *ROOT.glob("docs/*.md"),
]
NAMES = [path.name if path.parent == ROOT else f"docs/{path.name}" for path in DOCUMENTS]
TESTS = {path.relative_to(ROOT / "tests").as_posix(): path.read_text() for path in ROOT.glob("tests/**/*.py")}


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_file(name: str) -> None:
    path = ROOT / name
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text())
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_test_that_is_named_exists(name: str) -> None:
    text = (ROOT / name).read_text()
    files = re.findall(r"`(?:tests/)?((?:\w+/)?test_\w+\.py)(?:::(\w+))?`", text)
    for file, function in files:
        assert file in TESTS
        assert not function or f"def {function}(" in TESTS[file]
    everything = "\n".join(TESTS.values())
    for function in re.findall(r"\b(test_\w+)(?![\w.])", text):
        assert f"def {function}(" in everything or f"{function}.py" in "\n".join(TESTS), function


@pytest.mark.parametrize("name", NAMES)
def test_every_module_that_is_named_exists(name: str) -> None:
    for named in re.findall(
        r"`((?:core|journal|supervise|agents|gates|repo|api|cli|sandbox)/\w+)`", (ROOT / name).read_text()
    ):
        homes = [ROOT / "orchestrator" / f"{named}.py", ROOT / f"{named}.py", ROOT / "tests" / named]
        assert any(home.exists() for home in homes), named


def test_every_setting_is_documented_and_nothing_else() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    named = set(re.findall(r"`([A-Z][A-Z_]+[A-Z])`", text)) - {"ORCHESTRATOR_CONFIG", "PATH"}
    assert named == {name for row in ROWS for name in row.names}


def test_settings_without_effect_are_said_to_have_none() -> None:
    _, _, idle = (ROOT / "docs" / "settings.md").read_text().partition("have no effect in this version")
    assert {name for row in ROWS if row.unused for name in row.names} == set(
        re.findall(r"`([A-Z][A-Z_]+[A-Z])`", idle)
    )
