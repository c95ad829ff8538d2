"""How Cargo packages and workspaces are checked: by Cargo and its own tools, offline.

The invariant: nothing in the checkout chooses another compiler, linter's rules or program to run the built
tests than the base does, and no manifest of the candidate's takes tests away that the base has. Caller:
`gates.local`.
"""

from __future__ import annotations

import re

from orchestrator.gates.definition import (
    KIND_OF,
    MAX_FILES,
    MIN_COVERAGE,
    OURS,
    Base,
    Below,
    Definition,
    Kind,
    Silence,
    read_all,
)
from orchestrator.gates.restoring import restoring

_FORMAT = ("rustfmt.toml", ".rustfmt.toml")
CONFIGS = (
    *(".cargo/config.toml", ".cargo/config", "rust-toolchain.toml", "rust-toolchain"),
    *("clippy.toml", ".clippy.toml", *_FORMAT),
)
#: Clippy and rustfmt look for theirs beside each crate and each file.
BELOW = Below(frozenset(CONFIGS))
#: What takes tests away in a manifest. The rest of it is the candidate's: it may need another crate.
_UNTESTED = re.compile(rb"\b(?:test|doctest|harness|autotests)\"?[ \t]*=[ \t]*false\b")
_TESTED = (
    "find . -name Cargo.toml -not -path './.*/*' -exec sed -E -i "
    r"""'s/\b((test|doctest|harness|autotests)"?[[:space:]]*=[[:space:]]*)false\b/\1true/g' {} + || exit"""
    '\nexec "$@"'
)
_TOTAL = re.compile(
    rb"^TOTAL[ \t]+(?:\d+[ \t]+\d+[ \t]+[\d.]+%[ \t]+){2}\d+[ \t]+\d+[ \t]+(\d{1,3}(?:\.\d{1,6})?)%",
    re.MULTILINE,
)
#: Attributes by which a file is left alone.
_SILENCES = {
    "lint": (
        Silence(
            re.compile(
                r"#\s*!\s*\[\s*(?:(?:allow|expect)\b.{0,80}|cfg_attr\b(?:.*\b(?:allow|expect)\b|[^)]*$)|$)"
            ),
            ("*.rs",),
        ),
        Silence(re.compile(r"^[^#]{0,200}=[^#]{0,80}[\"']allow[\"']"), ("Cargo.toml", "*/Cargo.toml")),
    ),
    "coverage": (Silence(re.compile(r"#!?\[.{0,80}\bcoverage\([ \t]*off\b"), ("*.rs",)),),
}
_CHECKED = {
    "typecheck": ("cargo", "check", "--offline", "--all-targets"),
    "lint": ("cargo", "clippy", "--offline", "--all-targets", "--", "-D", "warnings"),
    "build": ("cargo", "build", "--offline"),
    "tests": ("cargo", "test", "--offline"),
    "coverage": ("cargo", "llvm-cov", "--offline", "--summary-only"),
    "integration": ("cargo", "test", "--offline", "--test", "*"),
}


async def find_rust(base: Base, gate: str) -> Definition | None:
    """Return how a gate is run on a Cargo project, or None where the base is none or has nothing to run."""
    manifest = await base.read("Cargo.toml") if "Cargo.toml" in base.names else None
    if manifest is None or (command := await _command(base, gate)) is None:
        return None
    kind = KIND_OF.get(gate, Kind.CHECK)
    shown = tuple(word for word in command if word != "--offline")
    if kind is not Kind.CHECK and not _UNTESTED.search(manifest):
        command = ("/bin/sh", "-c", _TESTED, "gate", *command)
    return restoring(
        shown=shown,
        command=command,
        files=await read_all(base.read, CONFIGS),
        remove=CONFIGS,
        below=BELOW,
        env={
            "CARGO_TARGET_DIR": f"{{workspace}}/{OURS}/target",
            "CARGO_NET_OFFLINE": "true",
            "CARGO_TERM_COLOR": "never",
        },
        counted=kind is not Kind.CHECK,
        kind=kind,
        minimum=MIN_COVERAGE if kind is Kind.COVERAGE else None,
        percent=_TOTAL if kind is Kind.COVERAGE else None,
        silences=_SILENCES.get(gate, ()),
    )


async def _command(base: Base, gate: str) -> tuple[str, ...] | None:
    if gate == "lint" and set(_FORMAT) & set(base.names):
        return ("/bin/sh", "-c", f"cargo fmt --all -- --check && {' '.join(_CHECKED['lint'])}")
    if gate == "coverage" and not await _measures(base):
        return None
    if gate == "integration" and not any(name.endswith(".rs") for name in await base.names_in("tests")):
        return None
    return _CHECKED.get(gate)


async def _measures(base: Base) -> bool:
    """Return whether the project measures its coverage, as far as its usual files say it."""
    flows = [f".github/workflows/{name}" for name in await base.names_in(".github/workflows")]
    usual = ("Cargo.toml", ".cargo/config.toml", "justfile", "Makefile", ".gitlab-ci.yml")
    for path in (*usual, *flows[:MAX_FILES]):
        if b"llvm-cov" in (await base.read(path) or b""):
            return True
    return False
