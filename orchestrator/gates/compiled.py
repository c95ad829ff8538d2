"""How Go and Rust projects are tested: by their own tools, offline.

The invariant: nothing in the checkout chooses another tool, or another program to run the built tests, than
the base does. Caller: `gates.local`.
"""

from __future__ import annotations

from orchestrator.gates.definition import OURS, Base, Definition, read_all, restoring

#: What leads Go elsewhere, and what leads Cargo to another compiler, toolchain or test runner.
_GO_CONFIGS = ("go.work",)
_CARGO_CONFIGS = (".cargo/config.toml", ".cargo/config", "rust-toolchain.toml", "rust-toolchain")


async def find_go(base: Base, gate: str) -> Definition | None:
    """Return how a gate is run on a Go module, or None where the base is none."""
    if gate != "tests" or "go.mod" not in base.names:
        return None
    return restoring(
        shown=("go", "test", "./..."),
        command=("go", "test", "-json", "./..."),
        files=await read_all(base.read, _GO_CONFIGS),
        remove=_GO_CONFIGS,
        env={
            # No cache on /tmp, which is memory.
            "GOCACHE": f"{{workspace}}/{OURS}/go-build",
            "GOENV": "off",
            "GOFLAGS": "-buildvcs=false",
            "GOPROXY": "off",
            "GOTOOLCHAIN": "local",
        },
        counted=True,
    )


async def find_rust(base: Base, gate: str) -> Definition | None:
    """Return how a gate is run on a Cargo package or workspace, or None where the base is none."""
    if gate != "tests" or "Cargo.toml" not in base.names:
        return None
    return restoring(
        shown=("cargo", "test"),
        command=("cargo", "test", "--offline"),
        files=await read_all(base.read, _CARGO_CONFIGS),
        remove=_CARGO_CONFIGS,
        env={
            "CARGO_TARGET_DIR": f"{{workspace}}/{OURS}/target",
            "CARGO_NET_OFFLINE": "true",
            "CARGO_TERM_COLOR": "never",
        },
        counted=True,
    )
