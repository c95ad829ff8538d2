"""A supervisor to be killed: for each line, a delay, it forks one that opens a sandbox, and kills it then.

Run by `test_kill.py` in a process of its own. Prints, for each line, the delay in microseconds, whether the
sandbox had opened, and how many of its processes were still there when the patience ended. A negative delay
waits until it has opened; every second sandbox that opens is frozen then. Where an instance is named, its
sandboxes are in cgroups.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import trio

from sandbox.base import Backend, Directory, Layers, Spec, User
from sandbox.bubblewrap import BubblewrapBackend
from sandbox.cgroup import Cgroups
from sandbox.delegation import find_delegated
from sandbox.podman import PodmanBackend
from tests.kit.processes import marked
from tests.kit.sandboxes import read_until
from tests.kit.zoo import ZOO

PATIENCE_S = 3.0
INSTANCE_VARIABLE = "SUPERVISED_INSTANCE"


def cgroups() -> Cgroups | None:
    """Return the cgroups of the instance that is named, if one is."""
    instance = os.environ.get(INSTANCE_VARIABLE)
    return Cgroups(find_delegated(), instance, may_move=False) if instance else None


def backend_for(user: User, image: Sequence[str]) -> Backend:
    """Return bubblewrap, or podman where an image and its place are given."""
    return (
        PodmanBackend(user, image[0], Path(image[1])) if image else BubblewrapBackend(user, cgroups=cgroups())
    )


async def supervise(root: Path, user: User, label: str, image: Sequence[str]) -> None:
    """Open a sandbox with the zoo in it and never leave it."""
    layered = Layers(*(root / name for name in ("lower", "upper", "work", "merged")))
    workspace = layered if label.endswith("layers") else Directory(root / "upper")
    backend = backend_for(user, image)
    with backend.reserve_ports(1) as ports:
        listen = None if label.endswith("layers") else ports
        spec = Spec(label, ("sh", "-c", ZOO), workspace, {"MARK": label}, listen=listen)
        await open_for_ever(backend, spec, label)


async def open_for_ever(backend: Backend, spec: Spec, label: str) -> None:
    """See `supervise`."""
    async with backend.open(spec) as sandbox:
        await read_until(sandbox, b"zoo-open")
        if label.endswith("layers"):
            sandbox.freeze_nowait()
        await trio.to_thread.run_sync(os.write, 1, b"open\n")
        await trio.sleep_forever()


def wait_gone(label: str) -> int:
    """Wait until nothing carries the label, by the end of what does; return how many are left at last."""
    end = time.monotonic() + PATIENCE_S
    while (pids := marked(label)) and (left := end - time.monotonic()) > 0:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pids[0])
            select.select([pidfd], [], [], left)
            os.close(pidfd)
    return len(marked(label))


def main() -> None:
    """See the module."""
    root, user = Path(sys.argv[1]), User(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    for number, line in enumerate(sys.stdin):
        label = f"killed-{os.getpid()}-{number}-{'layers' if number % 2 else 'plain'}"
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(writing, 1)
            trio.run(supervise, root, user, label, sys.argv[5:])
        os.close(writing)
        select.select([reading], [], [], int(line) / 1e6 if int(line) >= 0 else PATIENCE_S)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        opened = len(os.read(reading, 64))  # nobody else holds the other end: 0 where it never opened
        os.close(reading)
        sys.stdout.write(f"{int(line)} {int(opened > 0)} {wait_gone(label)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
