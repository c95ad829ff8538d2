"""What a candidate adds to be left alone by a tool is a rejection that names it, before anything is run."""

from __future__ import annotations

import pytest

from tests.gates.conftest import Judge
from tests.kit.projects import GO, JAVA, RUST, TYPESCRIPT

PYTHON = {
    "pyproject.toml": "[tool.ruff]\n\n[tool.mypy]\n\n[tool.coverage.run]\n",
    "test_app.py": "def test_app():\n    assert True\n",
    "app.py": "x = 1\n",
}
CHECKSTYLE = {
    **JAVA,
    "pom.xml": JAVA["pom.xml"].replace("</project>", "<!-- maven-checkstyle-plugin --></project>"),
}


@pytest.mark.parametrize(
    ("base", "gate", "path", "line"),
    [
        (TYPESCRIPT, "typecheck", "src/price.ts", "// @ts-nocheck"),
        (TYPESCRIPT, "typecheck", "src/price.ts", "\ufeff// @ts-nocheck"),
        (TYPESCRIPT, "typecheck", "src/price.ts", "/* a */ ///\u00a0@ts-nocheck"),
        (TYPESCRIPT, "typecheck", "src/price.ts", "\0/\0/\0@\0t\0s\0-\0n\0o\0c\0h\0e\0c\0k"),
        (TYPESCRIPT, "lint", "src/price.ts", "/* eslint no-debugger: 0 */"),
        (TYPESCRIPT, "lint", "src/price.ts", "eslint-disable"),
        (TYPESCRIPT, "lint", "src/price.ts", "   eslint no-debugger: 0 */"),
        (TYPESCRIPT, "lint", "src/price.ts", "// biome-ignore-all lint: so be it"),
        (TYPESCRIPT, "coverage", "src/price.ts", "/* istanbul"),
        (TYPESCRIPT, "lint", "src/price.ts", "/* eslint-disable no-debugger */"),
        (TYPESCRIPT, "coverage", "src/price.ts", "/* v8 ignore start */"),
        (TYPESCRIPT, "coverage", "src/price.ts", "/* istanbul ignore file */"),
        (TYPESCRIPT, "coverage", "src/price.ts", "/* c8 ignore next 900 */"),
        (PYTHON, "lint", "app.py", "\ufeff# ruff: noqa"),
        (PYTHON, "lint", "app.py", "x = 1\r# ruff: noqa"),
        (PYTHON, "lint", "app.py", "\f# a # ruff: noqa"),
        (PYTHON, "typecheck", "app.py", "# a\r# type: ignore"),
        (PYTHON, "typecheck", "app.py", "\0#\0 \0m\0y\0p\0y\0:\0 \0x"),
        (GO, "lint", "price.go", "//nolint:all"),
        (GO, "lint", "price.go", "//lint:file-ignore U1000 it is used"),
        (RUST, "lint", "src/lib.rs", "#![allow(clippy::all)]"),
        (RUST, "lint", "src/lib.rs", "# ! [cfg_attr(all(), allow(clippy::all))]"),
        (RUST, "lint", "src/lib.rs", "#!["),
        (RUST, "lint", "Cargo.toml", 'lints.clippy.all = { level = "allow" }'),
        (CHECKSTYLE, "lint", "src/main/java/shop/Price.java", "// CHECKSTYLE:OFF"),
    ],
)
async def test_line_that_silences_a_tool_for_a_file_is_named(
    judge: Judge, base: dict[str, str], gate: str, path: str, line: str
) -> None:
    verdict = await judge(base, {path: f"{line}\n{base[path]}"}, gate=gate)
    assert not verdict.approved
    assert verdict.message.startswith(f"{path}:1 adds `"), verdict
    assert verdict.message.endswith(f"which silences {gate} for the whole file: take it out"), verdict


@pytest.mark.parametrize(
    "line", ["// @ts-ignore", "// eslint-disable-next-line no-debugger", "/* v8 ignore next */"]
)
async def test_line_that_silences_a_tool_for_the_next_one_is_not(judge: Judge, line: str) -> None:
    for gate in ("typecheck", "lint", "coverage"):
        change = {"src/price.ts": f"{line}\n{TYPESCRIPT['src/price.ts']}"}
        assert "silences" not in (await judge(TYPESCRIPT, change, gate=gate)).message


async def test_line_ends_that_hide_an_exclusion_are_refused(judge: Judge) -> None:
    change = {"app.py": "def f():\r    return 1  # pragma: no cover\n"}
    verdict = await judge(PYTHON, change, gate="coverage")
    assert verdict.message == "app.py:1 has a carriage return in its midst: take it out"


@pytest.mark.parametrize(
    ("base", "stub", "hidden"),
    [
        (PYTHON, "app.pyi", "app.py"),
        (PYTHON, "app/__init__.pyi", "app.py"),
        ({**PYTHON, "a/__init__.py": ""}, "a/__init__.pyi", "a/__init__.py"),
        ({**PYTHON, "app.pyi": ""}, "app.pyi", ""),
        (PYTHON, "other.pyi", ""),
    ],
)
async def test_stub_that_hides_a_source_is_named(
    judge: Judge, base: dict[str, str], stub: str, hidden: str
) -> None:
    verdict = await judge(base, {stub: "x: int\n"}, gate="typecheck")
    told = f"the candidate adds {stub}, by which {hidden} is not looked at: take it out"
    assert (verdict.message == told) is bool(hidden)
    assert ("looked at" in verdict.message) is bool(hidden)
