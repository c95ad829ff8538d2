"""The settings of a project's tools where a makefile or a command of its own runs them, whichever it runs.

The invariant: such a command finds the tools led as the base leads them, whatever the candidate adds or
edits. A file that holds more than settings stays the candidate's as long as its settings are the base's.
Callers: `gates.make`, `gates.local`; `gates.mechanical` asks whether the settings are the same.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from orchestrator.gates import golang, node, python_config, rust
from orchestrator.gates.definition import Base, Definition, Kind, read_all
from orchestrator.gates.restoring import restoring

_PYTHON = (
    *(name for places in python_config.ALL for name, _ in places if name != "pyproject.toml"),
    *(".pylintrc", "pylintrc", ".bandit", "noxfile.py"),
)
#: What says how the usual tools check a project, at its top: the base's, or nobody's.
_CONFIGS = tuple(dict.fromkeys((*_PYTHON, *node.CONFIGS, *golang.CONFIGS, *rust.CONFIGS)))
#: Programs that a command would take for the project's own tools. What a set-up made is no candidate's.
_PLACES = ("node_modules", ".venv", "venv")
#: Tables of pyproject.toml that say what a project is made of; of two, all but what they run.
_CONTENT = ("poetry", "uv", "setuptools", "setuptools_scm", "flit", "maturin", "towncrier", "commitizen")
_RUN = {"hatch": "envs", "pdm": "scripts"}


def _of_pyproject(content: bytes) -> dict[str, Any]:
    tools = tomllib.loads(content.decode()).get("tool", {})
    kept = {name: table for name, table in tools.items() if name not in _CONTENT}
    return {
        name: table.get(_RUN[name]) if name in _RUN and isinstance(table, dict) else table
        for name, table in kept.items()
    }


def _of_package(content: bytes) -> dict[str, Any]:
    manifest = json.loads(content or b"{}")
    return {key: manifest.get(key) for key in node.SETTINGS}


#: Makefiles of folders, in which a makefile calls itself.
_MAKEFILES = ("GNUmakefile", "makefile", "Makefile")
#: Files that hold settings among other things, and what reads the settings.
_SHARED: Mapping[str, Callable[[bytes], dict[str, Any]]] = {
    "pyproject.toml": _of_pyproject,
    "package.json": _of_package,
}


#: What leads tools in the folders into which a command goes.
_BELOW = replace(
    node.BELOW,
    names=frozenset((*_CONFIGS, *_MAKEFILES)),
    shared=frozenset(_SHARED),
    additions=golang.BELOW.additions,
    places=_PLACES,
)


async def led_by_base(
    base: Base,
    *,
    shown: tuple[str, ...],
    command: tuple[str, ...],
    files: Mapping[str, bytes],
    remove: Iterable[str] = (),
    forbidden: Iterable[str] = (),
    sources: Iterable[str] = (),
    kind: Kind,
) -> Definition:
    """Return a definition of a command, with two ways to carry it out: see `Definition.settled`."""
    files = {**await read_all(base.read, (name for name in _CONFIGS if name in base.names)), **files}
    shared = {name: await base.read(name) if name in base.names else None for name in _SHARED}
    whole = {name: content for name, content in shared.items() if content is not None}
    barred = (*forbidden, *(name for name in _PLACES if name not in base.names))
    gone = (*remove, *_CONFIGS)
    told = (*sources, *gone, *files)
    plain = restoring(
        shown=shown,
        command=command,
        files=files,
        remove=gone,
        forbidden=barred,
        kind=kind,
        sources=told,
        below=_BELOW,
    )
    settled = restoring(
        shown=shown,
        command=command,
        files={**files, **whole},
        remove=(*gone, *_SHARED),
        forbidden=barred,
        kind=kind,
        sources=(*told, *_SHARED),
        below=_BELOW,
    )
    return replace(plain, shared=shared, settled=settled)


def are_same(path: str, base: bytes | None, candidate: bytes | None) -> bool:
    """Return whether two contents of a file say the same to tools; what cannot be read does not."""
    if base == candidate:
        return True
    read = _SHARED[path]
    try:
        before, after = read(base or b""), read(candidate or b"")
    except (ValueError, RecursionError, AttributeError):
        return False
    return {k: v for k, v in before.items() if v is not None} == {
        k: v for k, v in after.items() if v is not None
    }
