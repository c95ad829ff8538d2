"""How TypeScript and JavaScript projects are checked: by the base's scripts, else by the tools it configures.

The invariant: the scripts and the settings of the usual tools are the base's, wherever the tools look for
them; the candidate's package.json keeps its dependencies. Caller: `gates.local`.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.gates.definition import (
    KIND_OF,
    MIN_COVERAGE,
    OURS,
    Base,
    Below,
    Definition,
    Kind,
    Unrunnable,
    plain_path,
    read_all,
    scripts_named,
    shadows,
)
from orchestrator.gates.node_scripts import measurable, plain, reporting
from orchestrator.gates.node_tools import BIOME, ESLINT, FURTHER, SILENCES, SUFFIXES, own_command, packages
from orchestrator.gates.restoring import restoring
from orchestrator.gates.tally import TOTALS

#: The keys of package.json that say how the project is checked.
SETTINGS = (
    *("scripts", "jest", "mocha", "ava", "tap", "vitest", "c8", "nyc", "jasmine"),
    *(
        "eslintConfig",
        "eslintIgnore",
        "babel",
        "xo",
        "standard",
        "wireit",
        "prettier",
        "stylelint",
        "jshintConfig",
    ),
)
#: Files that say the same. What npm's own file says decides which shell runs the scripts.
CONFIGS = (
    *(".npmrc", ".yarnrc", ".yarnrc.yml", ".pnpmfile.cjs", "bunfig.toml"),
    *("turbo.json", "nx.json", "lerna.json"),
    *(
        f"{name}.config.{suffix}"
        for name in ("jest", "vitest", "vite", "ava", "babel")
        for suffix in SUFFIXES
    ),
    *(f"vitest.{name}.{suffix}" for name in ("workspace", "projects") for suffix in SUFFIXES),
    *(".taprc", ".babelrc", ".babelrc.json", ".babelrc.js", ".c8rc", ".c8rc.json", ".nycrc", ".nycrc.json"),
    "nyc.config.js",
    *(f".mocharc.{suffix}" for suffix in ("js", "cjs", "json", "jsonc", "yaml", "yml")),
    *ESLINT,
    ".eslintignore",
    *BIOME,
    *FURTHER,
    *("tsconfig.json", "jsconfig.json"),
)
_TSCONFIG = re.compile(r"tsconfig\.[\w.-]{1,60}\.json")
#: A file that a configuration is made of: imported, required, extended or referenced.
_BESIDE = re.compile(
    r"""(?:\bfrom|\bimport|\brequire\(|\bimport\(|"(?:extends|path)"[ \t]*:)[ \t]*"""
    r"""["'](\.{1,2}/[\w@%+.,/-]{1,200})["']"""
)
#: Where the code under test is: never put back, though a configuration may import it.
_SOURCE_FOLDERS = ("src/", "lib/", "app/")
#: What `npm init` writes.
_UNSET = re.compile(r"echo .{0,3}Error: no test specified.{0,3} && exit 1")
_HERE = Path(__file__)
_LAUNCHER, _REPORTER = _HERE.with_name("launch_npm.cjs"), _HERE.with_name("report_node.mjs")

#: The names by which projects call a script that does what the gate asks, the most usual first.
_SCRIPTS = {
    "typecheck": ("typecheck", "type-check", "types", "check-types", "check:types", "tsc"),
    "lint": ("lint",),
    "tests": ("test",),
    "coverage": ("coverage", "test:coverage", "test:cov", "test-coverage", "cover", "cov"),
    "build": ("build",),
    "integration": ("integration", "test:integration", "test-integration", "test:e2e", "e2e"),
}

#: The name of a script, and all scripts.
Chosen = tuple[str, dict[str, str]]


async def find_node(base: Base, gate: str) -> Definition | None:
    """Return how a gate is run on a Node project, or None where the base is none or has nothing to run."""
    content = await base.read("package.json") if "package.json" in base.names else None
    if content is None or gate not in _SCRIPTS:
        return None
    manifest = _parse(content)
    chosen = await _choose(base, gate, manifest, _scripts(manifest))
    if chosen is None:
        return None
    definition = await _definition(base, KIND_OF.get(gate, Kind.CHECK), manifest, chosen)
    return replace(definition, silences=SILENCES.get(gate, ()))


async def _definition(base: Base, kind: Kind, manifest: Mapping[str, Any], chosen: Chosen) -> Definition:
    name, scripts = chosen
    run = plain(name, scripts)
    if kind is not Kind.CHECK:
        run = reporting(name, scripts, coverage=kind is Kind.COVERAGE, tools=packages(manifest))
    nonce = secrets.token_hex(16) if run.runner else None
    order = {
        "nonce": nonce,
        "name": name,
        "script": run.text,
        "runner": run.runner,
        "coverage": kind is Kind.COVERAGE,
        "has_modules": "node_modules" in base.names,
        "settings": {key: manifest.get(key) for key in SETTINGS},
    }
    text = "\n".join(scripts.values())
    ours = {f"{OURS}/order.json": json.dumps(order).encode()}
    if run.runner == "node":
        ours[f"{OURS}/reporter.mjs"] = _REPORTER.read_bytes()
    return restoring(
        shown=("npm", "test") if name == "test" else _shown(name, manifest, scripts),
        command=("node", "-e", _LAUNCHER.read_text(encoding="utf-8"), run.text),
        files=await _files(base, text) | ours,
        remove=CONFIGS,
        below=BELOW,
        forbidden=shadows(text, base.names),
        counted=run.runner is not None,
        nonce=nonce,
        kind=kind,
        minimum=MIN_COVERAGE if kind is Kind.COVERAGE else None,
        percent=TOTALS if kind is Kind.COVERAGE and run.runner is None else None,
    )


def _shown(name: str, manifest: Mapping[str, Any], scripts: Mapping[str, str]) -> tuple[str, ...]:
    return ("npm", "run", name) if name in _scripts(manifest) else tuple(scripts[name].split())


async def _choose(
    base: Base, gate: str, manifest: Mapping[str, Any], scripts: dict[str, str]
) -> Chosen | None:
    """Return the script that is the gate, and all scripts; it may be one of ours, of the gate's own name."""
    for name in _SCRIPTS[gate]:
        if name in scripts and not _UNSET.fullmatch(scripts[name].strip()):
            return name, scripts
    text = await own_command(base, gate, manifest)
    if gate == "coverage" and text is None:
        chosen = await _choose(base, "tests", manifest, scripts)
        # A script that nobody understands cannot be made to measure, nor can a runner without its tool.
        return chosen if chosen and measurable(*chosen, packages(manifest)) else None
    return (gate, {**scripts, gate: text}) if text else None


async def _follow(base: Base, folder: str) -> Iterable[str]:
    """Return the files of the base that say how a workspace is checked; none where it cannot be read."""
    content = await base.read(f"{folder}/package.json")
    with suppress(Unrunnable):
        scripts = _scripts(_parse(content)) if content is not None else {}
        return await _files(base, "\n".join(scripts.values()), folder)
    return ()


async def _files(base: Base, scripts: str, folder: str = "") -> dict[str, bytes]:
    """Return the base's files that say how the project is checked, with those that they are made of."""
    top = f"{folder}/" if folder else ""
    names = await base.names_in(folder) if folder else base.names
    named = [f"{top}{name}" for name in names if name in CONFIGS or _TSCONFIG.fullmatch(name)]
    called = [path for name in scripts_named(scripts) if (path := plain_path(f"{top}{name}"))]
    found = await read_all(base.read, (*named, *called))
    pending = [name for name in found if name in named]
    while pending:
        name = pending.pop()
        beside = (path for path in _beside(name, found[name]) if path not in found)
        fresh = await read_all(base.read, (path for path in beside if not _is_source(path, top)))
        found |= fresh
        pending += fresh
    return found


def _beside(name: str, content: bytes) -> Iterable[str]:
    for match in _BESIDE.finditer(content.decode(errors="replace")):
        path = PurePosixPath(name).parent / match[1]
        parts: list[str] = []
        for part in path.parts:
            if part != "..":
                parts.append(part)
            elif parts:
                parts.pop()
        plain = plain_path("/".join(parts)) if parts else None
        if plain is None:
            continue
        if PurePosixPath(plain).suffix in {".json", ".js", ".cjs", ".mjs"}:
            yield plain
        elif "tsconfig" in name:
            yield from (f"{plain}/tsconfig.json", f"{plain}.json")


def _is_source(path: str, top: str) -> bool:
    """Return whether a path is the candidate's, seen from the folder of a package and from the top."""
    inside = path.removeprefix(top)
    whole = (path, inside)
    return "package.json" in whole or any(each.startswith(_SOURCE_FOLDERS) for each in whole)


def _scripts(manifest: Mapping[str, Any]) -> dict[str, str]:
    scripts = manifest.get("scripts")
    if not isinstance(scripts, dict):
        return {}
    return {name: text for name, text in scripts.items() if isinstance(text, str) and text.strip()}


def _parse(content: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Unrunnable(f"package.json in the base commit cannot be read: {error}") from error
    if not isinstance(manifest, dict):
        raise Unrunnable("package.json in the base commit is no object")
    return manifest


#: What leads the tools of a workspace.
BELOW = Below(
    names=frozenset(CONFIGS),
    globs=("tsconfig.*.json",),
    shared=frozenset({"package.json"}),
    places=("node_modules",),
    follow=_follow,
)
