"""What is run on a Node project where no script of its package.json says it: the tools that it configures.

Pure but for the files of the base that it asks for. Caller: `gates.node`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from orchestrator.gates.definition import OURS, Base, Silence

#: Suffixes of a tool's configuration, and the names of two that have their own.
SUFFIXES = ("js", "cjs", "mjs", "ts", "cts", "mts", "json")
ESLINT = (
    *(f"eslint.config.{suffix}" for suffix in SUFFIXES),
    ".eslintrc",
    *(f".eslintrc.{suffix}" for suffix in ("js", "cjs", "yaml", "yml", "json")),
)
BIOME = ("biome.json", "biome.jsonc")
#: What leads further checkers that scripts call: of the layout, of styles, and linters of other makes.
FURTHER = (
    *(".editorconfig", ".prettierignore", ".stylelintignore", ".oxlintrc.json", ".jshintrc", ".jshintignore"),
    *("dprint.json", ".prettierrc", ".stylelintrc"),
    *(
        f"{name}.{suffix}"
        for name in (".prettierrc", "prettier.config", ".stylelintrc", "stylelint.config")
        for suffix in (*SUFFIXES, "yaml", "yml", "json5", "toml")
    ),
)
#: The runners of tests that need no script, where the project depends on one.
_RUNNERS = {"vitest": "vitest run", "jest": "jest", "mocha": "mocha"}
_TEST_FILE = re.compile(r"(?:.*[._-])?test\.[cm]?js|test-.*\.[cm]?js")
_NO_OUTPUT = re.compile(rb'"noEmit"[ \t]*:[ \t]*true')

_SOURCES = tuple(
    f"*.{suffix}" for suffix in ("ts", "tsx", "mts", "cts", "js", "jsx", "mjs", "cjs", "vue", "svelte")
)
#: For each gate: the comments by which a file is not looked at.
SILENCES = {
    "typecheck": (Silence(re.compile(r"(?://|/\*)[/*\s]*@ts-nocheck\b"), _SOURCES),),
    "lint": (
        Silence(
            re.compile(
                r"(?:/\*|^)\s*eslint-disable(?!-)[^*]{0,80}|/\*\s*eslint(?!\S)[^*]{0,80}"
                r"|^\s*eslint(?:\s+[\w@/\"'-]+\s*:.{0,80}|\s*$)|(?://|/\*)\s*biome-ignore-all[^*]{0,80}"
            ),
            _SOURCES,
        ),
    ),
    "coverage": (
        Silence(
            re.compile(
                r"\b(?:istanbul\s+ignore\s+file"
                r"|(?:c8|v8)\s+ignore\s+(?:file|start|next\s+\d{2,9})"
                r"|node:coverage\s+(?:disable|ignore\s+next\s+\d{2,9}))"
                r"|/\*\s*istanbul(?:\s+ignore)?\s*$|\bistanbul\s+ignore\s*$"
            ),
            _SOURCES,
        ),
    ),
}

Manifest = Mapping[str, Any]


async def own_command(base: Base, gate: str, manifest: Manifest) -> str | None:
    """Return a text for `sh -c`, or None where the base configures no tool for the gate."""
    find = _FINDERS.get(gate)
    return await find(base, manifest) if find else None


def packages(manifest: Manifest) -> set[str]:
    """Return the packages that a project depends on, for itself or its development."""
    tables = (manifest.get(key) for key in ("dependencies", "devDependencies"))
    return {name for table in tables if isinstance(table, dict) for name in table}


async def _typecheck(base: Base, _: Manifest) -> str | None:
    config = next((name for name in ("tsconfig.json", "jsconfig.json") if name in base.names), None)
    if config is None:
        return None
    # A project of projects has no files of its own: checking it alone would check nothing.
    parts = b'"references"' in (await base.read(config) or b"")
    return "tsc --build --noEmit" if parts else f"tsc --noEmit -p {config}"


async def _build(base: Base, _: Manifest) -> str | None:
    if "tsconfig.json" not in base.names or _NO_OUTPUT.search(await base.read("tsconfig.json") or b""):
        return None
    return f"tsc -p tsconfig.json --outDir {OURS}/build"


async def _lint(base: Base, manifest: Manifest) -> str | None:
    if set(ESLINT) & set(base.names) or "eslintConfig" in manifest:
        return "eslint ."
    return "biome lint ." if set(BIOME) & set(base.names) else None


async def _tests(base: Base, manifest: Manifest) -> str | None:
    if runner := _runner(manifest):
        return runner
    folders = [name for name in ("test", "tests", "src", "lib") if name in base.names]
    names = [*base.names, *[name for folder in folders for name in await base.names_in(folder)]]
    return "node --test" if any(_TEST_FILE.fullmatch(name) for name in names) else None


async def _integration(base: Base, manifest: Manifest) -> str | None:
    runner = _runner(manifest)
    for folder in ("integration", "tests/integration", "test/integration"):
        if runner and await base.names_in(folder):
            return f"{runner} {folder}"
    return None


def _runner(manifest: Manifest) -> str | None:
    present = packages(manifest)
    return next((text for name, text in _RUNNERS.items() if name in present), None)


_FINDERS: dict[str, Callable[[Base, Manifest], Awaitable[str | None]]] = {
    "typecheck": _typecheck,
    "build": _build,
    "lint": _lint,
    "tests": _tests,
    "integration": _integration,
}
