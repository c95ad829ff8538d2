"""What a repository wants done once before anybody works on it: the recipe of its set-up, and where it lands.

The invariant: a recipe comes from the base commit alone, and two recipes with the same key come to the same,
as far as the repository itself says what the result depends on. Pure. Called by `repo.recipes`, which reads
the base, and by whoever carries a recipe out or stands on its result.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from types import MappingProxyType
from typing import Any

from orchestrator.errors import RepositoryError

OWN_WORD = "orchestrator.toml"
#: Where a set-up keeps what is no part of the project: caches that last, and what is thrown away.
OURS = ".orchestrator-setup"
SCRATCH = f"{OURS}/scratch"
#: Caches of package managers, as directories of the checkout, by the variable that names them to their tools.
CACHES: Mapping[str, str] = MappingProxyType(
    {"CARGO_HOME": f"{OURS}/cargo", "GOMODCACHE": f"{OURS}/go", "MAVEN_OPTS": f"{OURS}/m2"}
)
#: Directories of the checkout that come first on `PATH`, where the set-up has made them.
PROGRAMS = (".venv/bin", "node_modules/.bin")
MAX_INPUTS = 64
MAX_TIMEOUT_S = 86_400
#: Of another make, no layer is used.
_VERSION = 1


class SetupFailed(RepositoryError):
    """The repository's set-up failed."""


class SetupCutOff(SetupFailed):
    """The repository's set-up failed, and not all that it may reach could be reached: that may pass."""

    retryable = True


class SetupUnclear(SetupFailed):
    """The base says something about its set-up that cannot be followed."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to set a repository up."""

    argv: tuple[str, ...]
    #: What a person would have typed.
    shown: str
    #: Paths, directories or globs of the base whose content the result depends on; None: on all of it.
    inputs: tuple[str, ...] | None
    timeout_s: float | None = None
    #: Whether it was found rather than asked for; then inputs that are not there are none.
    detected: bool = False


def read_recipe(content: bytes) -> Recipe | None:
    """Return what an orchestrator.toml says, None where it says nothing; raises `SetupUnclear`."""
    try:
        table = tomllib.loads(content.decode()).get("setup")
    except (ValueError, RecursionError) as error:
        raise SetupUnclear(f"{OWN_WORD} in the base commit cannot be read: {error}") from error
    if table is None:
        return None
    if not isinstance(table, dict) or table.keys() - {"command", "inputs", "timeout"}:
        raise SetupUnclear(
            f"{OWN_WORD} in the base commit: [setup] takes command, inputs and timeout, no more"
        )
    command = _command(table)
    argv = ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)
    shown = command if isinstance(command, str) else " ".join(command)
    return Recipe(argv, shown, _inputs(table), _timeout_s(table))


def _command(table: dict[str, Any]) -> str | list[str]:
    command = table.get("command")
    words = command if isinstance(command, list) else [command]
    texts = [word for word in words if isinstance(word, str) and "\0" not in word]
    if texts and texts[0].strip() and len(texts) == len(words):
        return texts if isinstance(command, list) else texts[0]
    raise SetupUnclear(f"{OWN_WORD} in the base commit: [setup] command must be a text or a list of words")


def _inputs(table: dict[str, Any]) -> tuple[str, ...] | None:
    inputs = table.get("inputs")
    if inputs is None:
        return None
    plain = isinstance(inputs, list) and all(isinstance(each, str) and _is_plain(each) for each in inputs)
    if not plain or len(inputs) > MAX_INPUTS:
        raise SetupUnclear(
            f"{OWN_WORD} in the base commit: [setup] inputs must be a list of at most {MAX_INPUTS} paths, "
            "directories or globs within the repository"
        )
    return tuple("/".join(_parts(each)) for each in inputs)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in {"", "."}]


def _is_plain(text: str) -> bool:
    parts = _parts(text)
    return bool(parts) and ".." not in parts and not text.startswith("/") and text.isprintable()


def _timeout_s(table: dict[str, Any]) -> float | None:
    timeout = table.get("timeout")
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= MAX_TIMEOUT_S:
        raise SetupUnclear(f"{OWN_WORD} in the base commit: [setup] timeout must be a number of seconds")
    return float(timeout)


# --- what is found ---------------------------------------------------------------------------------------

_NEED = (
    'need() { command -v "$1" >/dev/null || { echo "orchestrator: $1 is missing: $2" >&2; exit 127; }; }\n'
)
_HOW = "'install it under /usr, or name its directory in SANDBOX_READ_ONLY and SANDBOX_PATH'"
#: What names each way, what it depends on, the tool that it needs, and the command.
_WAYS: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    ("uv.lock", ("pyproject.toml", "setup.py", "setup.cfg"), "uv", "uv sync --frozen"),
    (
        "pnpm-lock.yaml",
        ("package.json", ".npmrc", "pnpm-workspace.yaml"),
        "pnpm",
        "pnpm install --frozen-lockfile",
    ),
    ("yarn.lock", ("package.json", ".yarnrc", ".yarnrc.yml"), "yarn", "yarn install --frozen-lockfile"),
    ("package-lock.json", ("package.json", ".npmrc"), "npm", "npm ci --no-audit --no-fund"),
    (
        "Cargo.lock",
        ("Cargo.toml", ".cargo", "rust-toolchain", "rust-toolchain.toml"),
        "cargo",
        "cargo fetch --locked",
    ),
    ("go.sum", ("go.mod",), "go", "go mod download"),
)
_REQUIREMENTS = re.compile(r"requirements[\w.-]{0,60}\.txt")
#: Of these ways, the first that is there is taken.
_RIVALS = ("pnpm-lock.yaml", "yarn.lock", "package-lock.json")


#: Of a project that keeps in this directory what it needs, nothing is fetched.
_VENDORED = {"go.sum": "vendor"}


def find_recipe(names: Iterable[str], pyproject: bytes | None) -> Recipe | None:
    """Return what the lock files at the top of a base ask for, all of it as one; None without them."""
    present = set(names)
    chosen = next((name for name in _RIVALS if name in present and "package.json" in present), None)
    steps: list[tuple[tuple[str, ...], str, str]] = []
    for mark, beside, tool, command in _WAYS:
        if mark in present and (mark not in _RIVALS or mark == chosen) and _VENDORED.get(mark) not in present:
            steps.append(((mark, *beside), tool, command))
    if "uv.lock" not in present and (found := _find_pip(present, pyproject)):
        steps.insert(0, found)
    if not steps:
        return None
    script = "set -e\n" + _NEED + "".join(f"need {tool} {_HOW}\n{line}\n" for _, tool, line in steps)
    shown = " && ".join(line for _, _, line in steps)
    inputs = tuple(dict.fromkeys(name for step in steps for name in step[0]))
    return Recipe(("/bin/sh", "-c", script), shown, inputs, detected=True)


def _find_pip(present: set[str], pyproject: bytes | None) -> tuple[tuple[str, ...], str, str] | None:
    """Return the step by which pip installs what the files of requirements, or the project, name."""
    files = tuple(sorted(name for name in present if _REQUIREMENTS.fullmatch(name)))
    wanted = " ".join(f"-r {name}" for name in files)
    if not files:
        if pyproject is None or (extras := _extras(pyproject)) is None:
            return None
        wanted = f"-e '.{extras}'"
    beside = ("pyproject.toml", "setup.py", "setup.cfg", "constraints.txt")
    make = "python3 -m venv .venv && .venv/bin/python -m pip install --disable-pip-version-check"
    return (*files, *beside), "python3", f"{make} {wanted}"


def _extras(pyproject: bytes) -> str | None:
    """Return the extras of a project that are for who works on it, or None where it is none to install."""
    try:
        project = tomllib.loads(pyproject.decode()).get("project")
    except (ValueError, RecursionError):
        return None  # its own gates will say so
    if not isinstance(project, dict) or "name" not in project:
        return None
    optional = project.get("optional-dependencies")
    names = [name for name in ("dev", "test", "tests") if isinstance(optional, dict) and name in optional]
    return f"[{','.join(names)}]" if names else ""


# --- what its result is known by -------------------------------------------------------------------------


def choose(inputs: Iterable[str], paths: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return for each input the paths (of files) that it names: itself, what is below it, or matches it."""
    listed = tuple(paths)
    return {
        text: tuple(
            path
            for path in listed
            if path == text or path.startswith(f"{text}/") or (_is_glob(text) and fnmatchcase(path, text))
        )
        for text in inputs
    }


def _is_glob(text: str) -> bool:
    return any(character in text for character in "*?[")


def key_of(recipe: Recipe, contents: Mapping[str, str], place: Iterable[str]) -> str:
    """Return what a layer is known by: the command, the inputs (ids by path), and the tools around it."""
    told = json.dumps([_VERSION, recipe.argv, sorted(contents.items()), list(place)])
    return sha256(told.encode()).hexdigest()[:40]


def environment(workspace: str, caches: Iterable[str] = tuple(CACHES)) -> dict[str, str]:
    """Return the variables by which tools find those caches of a set-up, in a checkout seen there."""
    found = {name: f"{workspace}/{CACHES[name]}" for name in caches if name in CACHES}
    if "MAVEN_OPTS" in found:
        found["MAVEN_OPTS"] = f"-Dmaven.repo.local={found['MAVEN_OPTS']}"
    return found


def making_environment(workspace: str) -> dict[str, str]:
    """Return the variables of a set-up itself: its home, and what is thrown away, are on the disk."""
    scratch = f"{workspace}/{SCRATCH}"
    return {
        "CI": "true",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "HOME": f"{scratch}/home",
        "TMPDIR": scratch,
        "GOFLAGS": "-modcacherw",
        "UV_PYTHON_DOWNLOADS": "never",
        "PYTHONDONTWRITEBYTECODE": "1",
        **environment(workspace),
    }
