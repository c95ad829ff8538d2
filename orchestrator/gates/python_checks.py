"""How Python projects are checked without running their tests: types, style, and whether they build.

The invariant: a tool is looked for in the toolchain alone and led by a copy of the base's configuration; what
the base does not configure is not checked. Caller: `gates.python`.
"""

from __future__ import annotations

import json
import re
import secrets
import tomllib
from dataclasses import replace
from pathlib import PurePosixPath

from orchestrator.gates.definition import (
    OURS,
    Base,
    Definition,
    Kind,
    Silence,
    Unrunnable,
    plain_path,
    read_all,
)
from orchestrator.gates.python_config import FLAKE8, MYPY, PYRIGHT, RUFF, Config, find_config, program
from orchestrator.gates.restoring import restoring

_PYTHON = ("*.py", "*.pyi")
# Each alone on its line, where the tools obey it for the whole file.
_UNTYPED = Silence(re.compile(r"^\s*#\s*(?:mypy:|pyright:(?!\s*ignore)|type:\s*ignore\b).*"), _PYTHON)
_UNLINTED = Silence(
    re.compile(
        r"^\s*#(?:.*#)?\s*(?:(?:ruff|flake8)\s*[:=]\s*(?:noqa|disable|file-ignore)"
        r"|isort:\s*skip_file).*",
        re.IGNORECASE,
    ),
    _PYTHON,
)


async def find_typecheck(base: Base) -> Definition | None:
    """Return how types are checked: by mypy, else by pyright, where the base configures one."""
    if (config := await find_config(base, MYPY)) is not None:
        name = config.renamed(secrets.token_hex(4))
        settings = config.values("mypy", "tool.mypy")
        targets = () if {"files", "packages", "modules"} & settings.keys() else (".",)
        plugins = settings.get("plugins", "")
        words = plugins if isinstance(plugins, list) else str(plugins).replace(",", " ").split()
        paths = [path for word in words if str(word).endswith(".py") and (path := plain_path(str(word)))]
        files = {name: config.text.encode(), **await read_all(base.read, paths)}
        command = ("mypy", "--config-file", name, "--cache-dir=/dev/null", *targets)
        return replace(_check(config, ("mypy", *targets), command, files, _UNTYPED), hides=_hidden_by)
    if (config := await find_config(base, PYRIGHT)) is not None:
        name = f".orchestrator-{secrets.token_hex(4)}.json"
        text = config.text
        if config.name == "pyproject.toml":
            text = json.dumps(config.values("tool.pyright"), default=str)
        return _check(config, ("pyright",), ("pyright", "--project", name), {name: text.encode()}, _UNTYPED)
    return None


def _hidden_by(path: str) -> tuple[str, ...]:
    """Return the sources that mypy leaves alone where there is a stub of that path."""
    if not path.endswith(".pyi"):
        return ()
    package = path.removesuffix("/__init__.pyi")
    return (path[:-1],) if package == path else (path[:-1], f"{package}.py")


async def find_lint(base: Base) -> Definition | None:
    """Return how style is checked: by ruff, else by flake8, where the base configures one."""
    if (config := await find_config(base, RUFF)) is not None:
        # Ruff tells the two formats apart by the name; its paths are relative to where it is run.
        name = f"{OURS}/{'pyproject.toml' if config.name == 'pyproject.toml' else 'ruff.toml'}"
        # Without the candidate's .gitignore: what it names is linted too.
        told = (
            "check",
            "--no-cache",
            "--no-respect-gitignore",
            "--output-format=concise",
            "--config",
            name,
            ".",
        )
        return _check(
            config, ("ruff", "check", "."), ("ruff", *told), {name: config.text.encode()}, _UNLINTED
        )
    if (config := await find_config(base, FLAKE8)) is not None:
        name = config.renamed(secrets.token_hex(4))
        return _check(
            config, ("flake8",), ("flake8", "--config", name), {name: config.text.encode()}, _UNLINTED
        )
    return None


def _check(
    config: Config,
    shown: tuple[str, ...],
    command: tuple[str, ...],
    files: dict[str, bytes],
    silence: Silence,
) -> Definition:
    return restoring(
        shown=shown,
        # The tool's own program on PATH, else the module of the first Python.
        command=("python3", "-I", "-S", "-c", program("launch_tool"), *command),
        files=files,
        kind=Kind.CHECK,
        sources=(*config.sources, *(name for name in files if not name.startswith(".orchestrator-"))),
        silences=(silence,),
    )


async def find_build(base: Base) -> Definition | None:
    """Return how a wheel is built: by the backend that the base's pyproject.toml names, without a network."""
    content = await base.read("pyproject.toml") if "pyproject.toml" in base.names else None
    if content is None:
        return None
    try:
        system = tomllib.loads(content.decode()).get("build-system")
    except (ValueError, RecursionError) as error:
        raise Unrunnable(f"pyproject.toml in the base commit cannot be read: {error}") from error
    if not isinstance(system, dict):
        return None
    backend = system.get("build-backend", "setuptools.build_meta:__legacy__")
    path = system.get("backend-path", [])
    if not isinstance(backend, str) or not isinstance(path, list):
        raise Unrunnable("pyproject.toml in the base commit: build-system names no backend")
    inside = [found for word in path if (found := "." if word == "." else plain_path(str(word)))]
    module = backend.partition(":")[0].replace(".", "/")
    # A backend that the repository itself keeps is a part of the definition.
    kept = [
        str(PurePosixPath(folder, f"{module}{end}")) for folder in inside for end in (".py", "/__init__.py")
    ]
    files = await read_all(base.read, kept)
    order = json.dumps({"backend": backend, "path": inside, "ours": OURS})
    return restoring(
        shown=("python3", "-m", "build", "--wheel", "--no-isolation"),
        command=("python3", "-I", "-S", "-c", program("launch_build"), order),
        files=files,
        kind=Kind.CHECK,
        sources=("pyproject.toml", *files),
    )
