"""What a candidate adds to be left alone by a tool is a rejection that names it, before anything is run."""

from __future__ import annotations

import pytest

from tests.gates.conftest import Judge
from tests.kit.projects import GO, JAVA, RUST, TYPESCRIPT

CHECKSTYLE = {
    **JAVA,
    "pom.xml": JAVA["pom.xml"].replace("</project>", "<!-- maven-checkstyle-plugin --></project>"),
}


@pytest.mark.parametrize(
    ("base", "gate", "path", "line"),
    [
        (TYPESCRIPT, "typecheck", "src/price.ts", "// @ts-nocheck"),
        (TYPESCRIPT, "lint", "src/price.ts", "/* eslint-disable no-debugger */"),
        (TYPESCRIPT, "coverage", "src/price.ts", "/* v8 ignore start */"),
        (TYPESCRIPT, "coverage", "src/price.ts", "/* istanbul ignore file */"),
        (TYPESCRIPT, "coverage", "src/price.ts", "/* c8 ignore next 900 */"),
        (GO, "lint", "price.go", "//nolint:all"),
        (GO, "lint", "price.go", "//lint:file-ignore U1000 it is used"),
        (RUST, "lint", "src/lib.rs", "#![allow(clippy::all)]"),
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
