"""Where Python's tools are configured in a base commit, and what they are told there.

The invariant: a tool is led by a copy of the base's configuration under a name of ours, so that nothing that
the candidate adds or edits is looked at. Callers: `gates.python`, `gates.python_checks`.
"""

from __future__ import annotations

import configparser
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.gates.definition import MAX_FILE_BYTES, Base, Unrunnable

#: Where each tool looks, in its own order, and the section that makes the file its configuration; a file
#: without one is the tool's own.
PYTEST = (
    ("pytest.toml", ""),
    (".pytest.toml", ""),
    ("pytest.ini", ""),
    (".pytest.ini", ""),
    ("pyproject.toml", "pytest"),
    ("tox.ini", "pytest"),
    ("setup.cfg", "tool:pytest"),
)
COVERAGE = (
    (".coveragerc", ""),
    (".coveragerc.toml", ""),
    ("setup.cfg", "coverage:"),
    ("tox.ini", "coverage:"),
    ("pyproject.toml", "coverage"),
)
MYPY = (("mypy.ini", ""), (".mypy.ini", ""), ("pyproject.toml", "mypy"), ("setup.cfg", "mypy"))
PYRIGHT = (("pyrightconfig.json", ""), ("pyproject.toml", "pyright"))
RUFF = ((".ruff.toml", ""), ("ruff.toml", ""), ("pyproject.toml", "ruff"))
FLAKE8 = ((".flake8", ""), ("setup.cfg", "flake8"), ("tox.ini", "flake8"))
#: Every place in which one of these tools looks.
ALL = (PYTEST, COVERAGE, MYPY, PYRIGHT, RUFF, FLAKE8)

_HERE = Path(__file__)
#: What a text that is put behind another has no need of, or no right to.
_ONCE = re.compile(r"^from (?:__future__|orchestrator\.gates\.launch_site) import .*\n", re.MULTILINE)

Places = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Config:
    """A file of the base that configures a tool."""

    name: str
    text: str
    places: Places

    @property
    def sources(self) -> tuple[str, ...]:
        """The files that could configure the tool: a candidate's own are not looked at."""
        return tuple(name for name, section in self.places if not section or name == self.name)

    def renamed(self, mark: str) -> str:
        """Return a name of ours in the same folder: paths in a configuration are relative to its file."""
        return f".orchestrator-{mark[:8]}{Path(self.name).suffix or '.ini'}"

    def values(self, *sections: str) -> dict[str, Any]:
        """Return the settings of the first of the sections (of a TOML file: tables) that is there."""
        if self.name.endswith("toml"):
            for section in sections:
                table: Any = tomllib.loads(self.text)
                for key in section.split("."):
                    table = table.get(key) if isinstance(table, dict) else None
                if isinstance(table, dict):
                    return table
            return {}
        parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
        try:
            parser.read_string(self.text)
        except configparser.Error as error:
            raise Unrunnable(f"{self.name} in the base commit cannot be read: {error}") from error
        found = next((section for section in sections if parser.has_section(section)), None)
        return dict(parser.items(found)) if found else {}


def program(name: str) -> str:
    """Return the text of one of our programs for `python3 -I -S -c`, which starts without the checkout."""
    first, own = (_HERE.with_name(f"{each}.py").read_text(encoding="utf-8") for each in ("launch_site", name))
    return first + _ONCE.sub("", own)


async def find_config(base: Base, places: Places) -> Config | None:
    """Return the file that configures a tool in the base; raises `Unrunnable` where it cannot be read."""
    for name, section in places:
        if name not in base.names or (content := await base.read(name)) is None:
            continue
        if len(content) > MAX_FILE_BYTES:
            raise Unrunnable(f"{name} in the base commit is too large for a configuration")
        try:
            text = content.decode()
            if _configures(name, section, text):
                return Config(name, text, places)
        except (ValueError, RecursionError) as error:  # neither UTF-8 nor TOML
            raise Unrunnable(f"{name} in the base commit cannot be read: {error}") from error
    return None


def _configures(name: str, section: str, text: str) -> bool:
    if not section:
        return True
    if name.endswith("toml"):
        tools = tomllib.loads(text).get("tool", {})
        return isinstance(tools, dict) and section in tools
    return re.search(rf"^\[{re.escape(section)}", text, re.MULTILINE) is not None


async def mentions(base: Base, words: Iterable[str]) -> bool:
    """Return whether the files that name a project's tools name one of these."""
    pattern = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, words))})(?![\w-])")
    files = ("pyproject.toml", "setup.cfg", "setup.py", "tox.ini", "Pipfile")
    for name in base.names:
        if name in files or re.fullmatch(r"(?:dev-|test-)?requirements[\w.-]{0,40}\.(?:txt|in)", name):
            content = await base.read(name)
            if content is not None and pattern.search(content[:MAX_FILE_BYTES].decode(errors="replace")):
                return True
    return False
