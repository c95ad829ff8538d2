"""Running things in a sandbox from start to end, and seeing what is left of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from sandbox.base import Backend, Exit, Proof, Sandbox, Spec


@dataclass(frozen=True)
class Outcome:
    """What one sandbox did from start to end."""

    exit: Exit
    stdout: str
    stderr: str
    proof: Proof


Run = Callable[..., Awaitable[Outcome]]


async def read_all(stream: trio.abc.ReceiveStream, into: list[bytes]) -> None:
    """Read to the end."""
    while chunk := await stream.receive_some():
        into.append(bytes(chunk))


async def read_until(sandbox: Sandbox, word: bytes) -> None:
    """Read what the command writes until a word comes."""
    text = b""
    while word not in text:
        chunk = await sandbox.stdout.receive_some()
        assert chunk, f"the output ended without {word!r}: {text!r}"
        text += chunk


async def run_in(backend: Backend, spec: Spec, stdin: bytes = b"") -> Outcome:
    """Run a command in a sandbox to its end."""
    out: list[bytes] = []
    err: list[bytes] = []
    async with backend.open(spec) as sandbox, trio.open_nursery() as nursery:
        nursery.start_soon(read_all, sandbox.stdout, out)
        nursery.start_soon(read_all, sandbox.stderr, err)
        if stdin:
            await sandbox.stdin.send_all(stdin)
        await sandbox.stdin.aclose()
        ended = await sandbox.wait()
    assert sandbox.proof is not None
    return Outcome(ended, b"".join(out).decode(), b"".join(err).decode(), sandbox.proof)


def read_status(pid: int) -> dict[str, str]:
    """Return what the kernel says about a process on the host."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)
