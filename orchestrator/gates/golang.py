"""How Go modules are checked: by Go's own tools, and by the linter that the base configures; offline.

The invariant: nothing in the checkout chooses another tool than the base does; the tests are counted by what
`go test -json` tells, in which a test's own output stands apart. Caller: `gates.local`.
"""

from __future__ import annotations

import re

from orchestrator.gates.definition import (
    KIND_OF,
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

#: What leads Go elsewhere, and what says what the linters look at.
_GOLANGCI = tuple(f".golangci.{suffix}" for suffix in ("yml", "yaml", "toml", "json"))
CONFIGS = ("go.work", "go.work.sum", "go.env", *_GOLANGCI, "staticcheck.conf")
#: A module within the module takes its packages out of `./...`.
BELOW = Below(frozenset(CONFIGS), additions=frozenset({"go.mod"}))
#: The last line of `go tool cover -func`; what tests print is inside of JSON.
_TOTAL = re.compile(rb"^total:[ \t]+\(statements\)[ \t]+(\d{1,3}(?:\.\d{1,6})?)%", re.MULTILINE)
_COVERED = (
    'go test -json -coverpkg=./... -coverprofile="$ORCHESTRATOR_GATE/cover.out" ./... || exit\n'
    'go tool cover -func="$ORCHESTRATOR_GATE/cover.out" | tail -n 1'
)
#: gofmt tells names and ends with success.
_FORMATTED = (
    "names=$(find . -name '*.go' -not -path './vendor/*' -not -path './.*/*' -exec gofmt -l {} +) || exit\n"
    '[ -z "$names" ] || { echo "not formatted as gofmt does:"; echo "$names"; exit 1; }'
)
_INTEGRATION = ("integration", "tests/integration", "test/integration", "e2e", "test/e2e")

#: Lines by which a linter leaves a whole file, or what is declared at its top, alone.
_UNLINTED = Silence(re.compile(r"^//[ \t]*nolint\b.*|//[ \t]*lint:file-ignore\b.*"), ("*.go",))
#: What is shown, and what is run.
Command = tuple[tuple[str, ...], tuple[str, ...]]
_COMMANDS: dict[str, Command] = {
    "typecheck": (("go", "vet", "./..."), ("go", "vet", "./...")),
    "tests": (("go", "test", "./..."), ("go", "test", "-json", "./...")),
    "coverage": (("go", "test", "-cover", "-coverpkg=./...", "./..."), ("/bin/sh", "-c", _COVERED)),
    "build": (("go", "build", "./..."), ("go", "build", "./...")),
}
_LINTS: dict[str, Command] = {
    "golangci-lint": (("golangci-lint", "run", "./..."), ("golangci-lint", "run", "./...")),
    "staticcheck": (("staticcheck", "./..."), ("staticcheck", "./...")),
    "gofmt": (("gofmt", "-l", "."), ("/bin/sh", "-c", _FORMATTED)),
}


async def find_go(base: Base, gate: str) -> Definition | None:
    """Return how a gate is run on a Go module, or None where the base is none or has nothing to run."""
    if "go.mod" not in base.names:
        return None
    kind = KIND_OF.get(gate, Kind.CHECK)
    found = await _command(base, gate)
    if found is None:
        return None
    shown, command = found
    return restoring(
        shown=shown,
        command=command,
        files=await read_all(base.read, (name for name in CONFIGS if name in base.names)),
        remove=CONFIGS,
        below=BELOW,
        env={
            # No cache on /tmp, which is memory.
            "GOCACHE": f"{{workspace}}/{OURS}/go-build",
            "GOENV": "off",
            "GOFLAGS": "-buildvcs=false",
            "GOPROXY": "off",
            "GOTOOLCHAIN": "local",
            "GOLANGCI_LINT_CACHE": f"{{workspace}}/{OURS}/golangci-lint",
            "STATICCHECK_CACHE": f"{{workspace}}/{OURS}/staticcheck",
            "ORCHESTRATOR_GATE": f"{{workspace}}/{OURS}",
        },
        counted=kind is not Kind.CHECK,
        kind=kind,
        minimum=MIN_COVERAGE if kind is Kind.COVERAGE else None,
        percent=_TOTAL if kind is Kind.COVERAGE else None,
        silences=(_UNLINTED,) if gate == "lint" else (),
    )


async def _command(base: Base, gate: str) -> Command | None:
    if gate == "lint":
        return _LINTS["golangci-lint" if set(_GOLANGCI) & set(base.names) else _own_linter(base)]
    if gate != "integration":
        return _COMMANDS.get(gate)
    for folder in _INTEGRATION:
        if any(name.endswith("_test.go") for name in await base.names_in(folder)):
            words = ("-tags=integration", f"./{folder}/...")
            return ("go", "test", *words), ("go", "test", "-json", *words)
    return None


def _own_linter(base: Base) -> str:
    return "staticcheck" if "staticcheck.conf" in base.names else "gofmt"
