"""What says below the top how a project is checked is the base's: which files, found without a run."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.gates.definition import Base, Definition
from orchestrator.gates.local import find
from orchestrator.gates.nested import Displaced, led_below
from sandbox.base import Limits, User
from sandbox.trusted import ProcessBackend
from tests.gates.conftest import Changes, Files, base_with, exhibit_of

WORKSPACES = {
    "package.json": '{"workspaces": ["packages/*"], "scripts": {"test": "npm test -ws"}}',
    "packages/a/package.json": '{"name": "a", "scripts": {"test": "jest && sh tools/check.sh"}}',
    "packages/a/jest.config.js": "module.exports = require('./jest/rules.js');\n",
    "packages/a/jest/rules.js": "module.exports = {};\n",
    "packages/a/tools/check.sh": "exit 0\n",
    "packages/a/tsconfig.json": '{"extends": "./ts/strict.json"}',
    "packages/a/ts/strict.json": "{}",
    "packages/a/src/a.js": "1\n",
    "tools/one/x.js": "1\n",
}
MAKE = {
    "Makefile": "test:\n\t$(MAKE) -C sub test\n",
    "sub/Makefile": "test:\n\ttrue\n",
    "sub/pyproject.toml": '[project]\nname = "p"\n\n[tool.ruff]\nline-length = 100\n',
    "sub/app.py": "1\n",
}
GO = {"go.mod": "module x\n", "a/a.go": "package a\n", "b/go.mod": "module x/b\n", "b/b.go": "package b\n"}
RUST = {
    "Cargo.toml": '[workspace]\nmembers = ["crates/a"]\n',
    "crates/a/Cargo.toml": '[package]\nname = "a"\n',
    "crates/a/src/lib.rs": "\n",
    "crates/a/clippy.toml": "msrv = '1.70'\n",
}
SCRIPTS = '{"name": "a", "scripts": {"test": "true"}}'
SAME = '{"name": "a", "scripts": {"test": "jest && sh tools/check.sh"}, "dependencies": {"b": "1"}}'


@dataclass(frozen=True)
class Row:
    """A change, and what of it is put back and taken away."""

    base: Files
    change: Changes
    back: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    gate: str = "tests"


A = "packages/a"
ROWS = {
    "scripts": Row(WORKSPACES, {f"{A}/package.json": SCRIPTS}, (f"{A}/package.json",)),
    "manifest deleted": Row(WORKSPACES, {f"{A}/package.json": None}, (f"{A}/package.json",)),
    "manifest that is a link": Row(WORKSPACES, {f"{A}/package.json": "->x"}, (f"{A}/package.json",)),
    "dependency": Row(WORKSPACES, {f"{A}/package.json": SAME}),
    "configuration": Row(WORKSPACES, {f"{A}/jest.config.js": "1\n"}, (f"{A}/jest.config.js",)),
    "what it requires": Row(WORKSPACES, {f"{A}/jest/rules.js": "1\n"}, (f"{A}/jest/rules.js",)),
    "what it extends": Row(WORKSPACES, {f"{A}/ts/strict.json": "[]"}, (f"{A}/ts/strict.json",)),
    "script that a script calls": Row(WORKSPACES, {f"{A}/tools/check.sh": "1\n"}, (f"{A}/tools/check.sh",)),
    "configuration added": Row(
        WORKSPACES,
        {f"{A}/.npmrc": "x", f"{A}/src/.eslintrc": "{}", f"{A}/.prettierignore": "*\n"},
        (),
        (f"{A}/.npmrc", f"{A}/src/.eslintrc", f"{A}/.prettierignore"),
    ),
    "configuration for one build": Row(
        WORKSPACES, {f"{A}/tsconfig.build.json": "{}"}, (), (f"{A}/tsconfig.build.json",)
    ),
    "settings in a manifest added": Row(
        WORKSPACES, {f"{A}/src/package.json": '{"eslintConfig": {}}'}, (), (f"{A}/src/package.json",)
    ),
    "kind of modules added": Row(WORKSPACES, {f"{A}/src/package.json": '{"type": "module"}'}),
    "workspace of its own": Row(
        WORKSPACES, {"packages/b/package.json": SCRIPTS, "packages/b/jest.config.js": "1\n"}
    ),
    "workspace removed": Row(WORKSPACES, {path: None for path in WORKSPACES if path.startswith(A)}),
    "workspace replaced by a link": Row(
        WORKSPACES,
        {
            **{path: None for path in WORKSPACES if path.startswith(A)},
            A: "->../evil",
            "evil/package.json": SCRIPTS,
        },
        tuple(
            f"{A}/{name}"
            for name in (
                "package.json",
                "jest.config.js",
                "jest/rules.js",
                "tools/check.sh",
                "tsconfig.json",
                "ts/strict.json",
            )
        ),
    ),
    "code": Row(WORKSPACES, {f"{A}/src/a.js": "2\n", f"{A}/src/new/b.test.js": "3\n"}),
    "makefile of a folder": Row(MAKE, {"sub/Makefile": "test:\n"}, ("sub/Makefile",)),
    "stronger makefile": Row(MAKE, {"sub/GNUmakefile": "test:\n"}, (), ("sub/GNUmakefile",)),
    "settings of a folder": Row(
        MAKE,
        {"sub/pyproject.toml": '[tool.ruff]\nexclude = ["*"]\n', "sub/pytest.ini": "x"},
        ("sub/pyproject.toml",),
        ("sub/pytest.ini",),
    ),
    "version of a folder": Row(
        MAKE, {"sub/pyproject.toml": MAKE["sub/pyproject.toml"].replace('"p"', '"p"\nversion = "2"')}
    ),
    "module in a module": Row(
        GO, {"a/go.mod": "module y\n", "b/go.mod": "module x/b\n\ngo 1.22\n"}, (), ("a/go.mod",)
    ),
    "checks of a package": Row(
        GO, {"a/staticcheck.conf": 'checks = ["none"]'}, (), ("a/staticcheck.conf",), "lint"
    ),
    "rules of a crate": Row(
        RUST,
        {"crates/a/clippy.toml": "x", "crates/a/src/rustfmt.toml": "x"},
        ("crates/a/clippy.toml",),
        ("crates/a/src/rustfmt.toml",),
        "lint",
    ),
}


async def led(place: Path, user: User, row: Row) -> Definition:
    """Return the definition of the row's gate once it has seen the row's change."""
    candidate = {path: text for path, text in {**row.base, **row.change}.items() if text is not None}
    exhibit = exhibit_of(row.base, candidate, place, ProcessBackend(user), Limits())
    base: Base = base_with(row.base)
    return await led_below(base, exhibit, await find(row.gate, base))


@pytest.mark.parametrize("name", ROWS)
async def test_what_leads_tools_below_the_top_is_the_bases(
    tmp_path: Path, ordinary_user: User, name: str
) -> None:
    row = ROWS[name]
    plain = await find(row.gate, base_with(row.base))
    definition = await led(tmp_path / "checkout", ordinary_user, row)
    fresh = definition.argv[4 : 4 + len(definition.argv) - len(plain.argv)]
    assert sorted(fresh) == sorted((*row.back, *row.gone))
    with tarfile.open(fileobj=io.BytesIO(definition.stdin)) as archive:
        assert {path: archive.extractfile(path).read().decode() for path in row.back} == {  # type: ignore[union-attr]
            path: row.base[path] for path in row.back
        }
    assert set(fresh) <= set(definition.sources)


@pytest.mark.parametrize(
    ("base", "path", "place"),
    [
        (WORKSPACES, f"{A}/node_modules/.bin/jest", f"{A}/node_modules"),
        (WORKSPACES, "packages/node_modules/jest/index.js", "packages/node_modules"),
        (WORKSPACES, f"{A}/node_modules", f"{A}/node_modules"),
        (MAKE, "sub/.venv/bin/pytest", "sub/.venv"),
    ],
)
async def test_tools_that_a_candidate_brings_below_the_top_are_refused(
    tmp_path: Path, ordinary_user: User, base: Files, path: str, place: str
) -> None:
    with pytest.raises(Displaced, match=f"the candidate adds {place}, which"):
        await led(tmp_path / "checkout", ordinary_user, Row(base, {path: "x\n"}))
    fixture = {"test/new/node_modules/x/index.js": "1\n"}
    await led(tmp_path / "checkout", ordinary_user, Row(base, fixture))


async def test_folders_that_the_base_lacks_cost_nothing(tmp_path: Path, ordinary_user: User) -> None:
    asked: list[str] = []
    known = base_with(WORKSPACES)

    async def read(path: str) -> bytes | None:
        asked.append(path)
        return await known.read(path)

    async def names_in(folder: str) -> tuple[str, ...]:
        asked.append(folder)
        return await known.names_in(folder)

    definition = await find("tests", known)
    fresh = {f"packages/new/{n}/{n}/{name}": "{}" for n in range(50) for name in ("a.js", "package.json")}
    exhibit = exhibit_of(
        WORKSPACES, {**WORKSPACES, **fresh}, tmp_path, ProcessBackend(ordinary_user), Limits()
    )
    await led_below(Base(known.names, read, names_in), exhibit, definition)
    assert asked == ["packages"]
