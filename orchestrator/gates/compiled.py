"""How Go and Rust projects are tested: by their own tools, offline.

The invariant: nothing in the checkout chooses another tool, or another program to run the built tests, than
the base does. Caller: `gates.local`.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.gates.definition import OURS, Definition, ReadBase, read_all, restoring

#: What leads Go elsewhere, and what leads Cargo to another compiler, toolchain or test runner.
_GO_CONFIGS = ("go.work",)
_CARGO_CONFIGS = (".cargo/config.toml", ".cargo/config", "rust-toolchain.toml", "rust-toolchain")


async def find_go(names: Iterable[str], read_base: ReadBase) -> Definition | None:
    """Return how to test a Go module, or None where the base is none."""
    if "go.mod" not in names:
        return None
    return restoring(
        shown=("go", "test", "./..."),
        command=("go", "test", "-json", "./..."),
        files=await read_all(read_base, _GO_CONFIGS),
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


async def find_rust(names: Iterable[str], read_base: ReadBase) -> Definition | None:
    """Return how to test a Cargo package or workspace, or None where the base is none."""
    present = set(names)
    if "Cargo.toml" not in present:
        return None
    return restoring(
        shown=("cargo", "test"),
        command=("cargo", "test", "--offline"),
        files=await read_all(read_base, _CARGO_CONFIGS),
        remove=_CARGO_CONFIGS,
        env={
            "CARGO_TARGET_DIR": f"{{workspace}}/{OURS}/target",
            "CARGO_NET_OFFLINE": "true",
            "CARGO_TERM_COLOR": "never",
        },
        counted=True,
    )
