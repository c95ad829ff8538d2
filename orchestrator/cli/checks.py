"""What `doctor` looks at: each check says what is there, and where something is missing, what would help.

The invariant: a check changes nothing on the host, ends within its deadline, and never raises for what it
is meant to find. Called by `orchestrator.cli.doctor`.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.agents.claude_cli import ClaudeCli, ClaudeCodeUnusable, Place, own_program
from orchestrator.cli.printable import one_line
from orchestrator.gates.judges import make_judges
from orchestrator.mirror.address import Address as ValkeyAddress
from orchestrator.mirror.thread import MirrorThread
from orchestrator.mirror.trouble import MirrorTrouble
from orchestrator.settings.reader import is_encrypted_or_local
from sandbox.base import Backend, Directory, Limits, SandboxError, Spec, User
from sandbox.process import run_child
from sandbox.reach import closed_to

if TYPE_CHECKING:
    from orchestrator.config import Settings

State = Literal["ok", "warning", "missing"]

MIN_PYTHON = (3, 11)
#: `fd::` pushes, alternates and `--force-with-lease` behave alike from here on.
MIN_GIT = (2, 30)
CHECK_S = 30.0
LOW_BYTES, LEAST_BYTES = 5 << 30, 512 << 20
#: File systems on which SQLite's locks or fsync cannot be trusted.
NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs"}
)
#: What an agent's ceilings are called by people.
LIMITS = {"memory_mb": "memory", "cpus": "CPU", "pids": "processes", "disk_mb": "disk"}
#: What the orchestrator itself starts inside, to commit an agent's work and to judge it.
ESSENTIAL = ("tar", "find", "git")
#: Programs that the local gates start inside, with what they are for.
TOOLS = {
    "make": "make test",
    "python3": "Python",
    "pytest": "Python tests",
    "node": "Node",
    "npm": "Node",
    "go": "Go",
    "cargo": "Rust",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: `missing` keeps the orchestrator from working, a `warning` only costs something."""

    name: str
    state: State
    detail: str
    fix: str = ""


def python_version() -> Check:
    """Check the interpreter."""
    running = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < MIN_PYTHON:
        return Check("python", "missing", running, "install Python 3.11 or newer")
    return Check("python", "ok", f"{running} ({sys.executable})")


async def git_version() -> Check:
    """Check the host's git."""
    program = shutil.which("git")
    if program is None:
        return Check("git", "missing", "there is no git in PATH", "install git (apt install git)")
    try:
        done = await run_child((program, "--version"), env={"LC_ALL": "C"}, deadline_s=CHECK_S)
    except SandboxError as error:
        return Check("git", "missing", str(error), "install git anew (apt install --reinstall git)")
    said = one_line(done.stdout.decode(errors="replace"))
    found = re.search(r"(\d+)\.(\d+)", said)
    if not found:
        return Check("git", "missing", f"{program} says {said!r} ({done.exit})", "install git anew")
    if (int(found[1]), int(found[2])) < MIN_GIT:
        return Check("git", "missing", said, f"install git {'.'.join(map(str, MIN_GIT))} or newer")
    return Check("git", "ok", f"{said} ({program})")


def state_directory(settings: Settings, user: User | None) -> list[Check]:
    """Check the state directory: that it is ours to write, on a local disk, and can be entered by agents."""
    home = settings.home
    nearest = next(path for path in (home, *home.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        fix = f"set ORCHESTRATOR_HOME to a directory of yours, or: sudo install -d -o $USER {home}"
        return [Check("state", "missing", f"{nearest} cannot be written by uid {os.geteuid()}", fix)]
    kind = _file_system(nearest)
    there = (
        f"{home}, mode {home.stat().st_mode & 0o777:04o}"
        if nearest == home
        else f"{home}, made at the first start"
    )
    checks = [Check("state", "ok", f"{there}, on {kind}")]
    if kind in NETWORK:
        fix = "set ORCHESTRATOR_HOME to a local disk: the journal's locks need one"
        checks = [Check("state", "missing", f"{home} is on {kind}", fix)]
    elif kind in {"tmpfs", "ramfs"}:
        fix = "set ORCHESTRATOR_HOME to a disk if tasks must outlive the machine's restart"
        checks = [Check("state", "warning", f"{there}, on {kind}", fix)]
    if user is not None and (closed := closed_to(user, settings.workspaces_dir)):
        fix = f"chmod o+x {closed}, or set WORKSPACES_DIR or ORCHESTRATOR_HOME elsewhere"
        checks.append(
            Check("reach", "missing", f"{user.name}, who agents run as, may not enter {closed}", fix)
        )
    return [*checks, _disk(nearest)]


def _disk(path: Path) -> Check:
    usage = shutil.disk_usage(path)
    detail = f"{usage.free / (1 << 30):.1f} GiB free of {usage.total / (1 << 30):.1f} GiB"
    if usage.free < LEAST_BYTES:
        return Check("disk", "missing", detail, "make room: below 0.5 GiB new work is refused")
    if usage.free < LOW_BYTES:
        return Check("disk", "warning", detail, "make room: agents' checkouts and builds live here")
    return Check("disk", "ok", detail)


def _file_system(path: Path) -> str:
    """Return the kind of file system that a path is on."""
    real, best = path.resolve(), (-1, "unknown")
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        left, _, right = line.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), left.split(" ")[4]))
        if real.is_relative_to(point):
            best = max(best, (len(point.parts), right.split(" ")[0]), key=lambda found: found[0])
    return best[1]


def limits(backend: Backend, refusals: dict[str, str]) -> list[Check]:
    """Say what the kernel enforces in this sandbox, and what it does not."""
    checks = []
    if backend.name == "process":
        fix = "install bubblewrap (apt install bubblewrap) and leave SANDBOX_ENABLED out"
        checks.append(
            Check("isolation", "warning", "none: agents run as plain processes, for trusted code only", fix)
        )
    if backend.layered:
        checks.append(
            Check("overlay", "ok", "checkouts are overlays: as fast for a large repository as for a small")
        )
    else:
        why = refusals.get("overlay", f"the {backend.name} sandbox has none")
        checks.append(
            Check(
                "overlay", "warning", f"checkouts are copied: {why}", "use bubblewrap on Linux 5.11 or newer"
            )
        )
    held = [word for name, word in LIMITS.items() if name in backend.enforced]
    watched = [word for name, word in LIMITS.items() if name in backend.watched]
    loose = [word for name, word in LIMITS.items() if name not in backend.enforced | backend.watched]
    detail = f"the kernel enforces those of {', '.join(held) or 'nothing'}"
    fix = ""
    if watched:
        detail += f"; {', '.join(watched)} are measured"
    if loose:
        detail += f"; not of {', '.join(loose)}"
    if {"memory_mb", "cpus"} - backend.enforced:
        fix = "on a shared host bound the service as a whole, by a cgroup of its own (MemoryMax=, CPUQuota=)"
    checks.append(Check("limits", "warning" if fix else "ok", detail, fix))
    return [*checks, _kill(backend, refusals)]


def _kill(backend: Backend, refusals: dict[str, str]) -> Check:
    """Say by what a tree is ended, and why not by a cgroup."""
    why = refusals.get("cgroup")
    detail = f"by {backend.tier}" + (f"; no cgroup: {why}" if why else "")
    return Check("kill", "warning" if backend.tier == "subreaper" else "ok", detail)


async def tools_inside(backend: Backend, workspace: Path) -> list[Check]:
    """Look for the programs that agents and gates use, from inside the sandbox."""
    names = " ".join([*ESSENTIAL, *TOOLS])
    script = f"for name in {names}; do command -v $name >/dev/null && echo $name; done; :"
    spec = Spec("doctor", ("sh", "-c", script), Directory(workspace), limits=Limits())
    found = b""
    async with backend.open(spec) as sandbox:
        while len(found) < 4096 and (chunk := await sandbox.stdout.receive_some()):
            found += bytes(chunk)
        await sandbox.wait()
    seen = set(found.decode(errors="replace").split())
    fix = "install them under /usr, or name their directories in SANDBOX_READ_ONLY and SANDBOX_PATH"
    if backend.name == "podman":
        fix = "put them into SANDBOX_IMAGE (docs/sandboxes.md)"
    checks = [
        Check(f"{name} inside", "missing", f"the sandbox shows no {name}", fix)
        for name in ESSENTIAL
        if name not in seen
    ]
    absent = [f"{name} ({use})" for name, use in TOOLS.items() if name not in seen]
    detail = (
        f"agents and gates find {', '.join(name for name in ('git', *TOOLS) if name in seen) or 'nothing'}"
    )
    if absent:
        return [*checks, Check("tools", "warning", f"{detail}; not {', '.join(absent)}", fix)]
    return [*checks, Check("tools", "ok", detail)]


async def claude_code(settings: Settings, backend: Backend, workspace: Path) -> Check:
    """Look for Claude Code, and ask it for its version inside the sandbox."""
    place = Place(backend, Directory(workspace), "doctor")
    own = await own_program(place) if backend.name == "podman" else None
    cli = ClaudeCli(settings.claude_code_path, settings.sandbox_path, own=own)
    try:
        program = await cli.ready(place)
    except ClaudeCodeUnusable as error:
        # Who has no key has no use for it.
        return Check("claude-code", "warning" if settings.claude_api_key else "ok", f"none: {error.detail}")
    key = "" if settings.claude_api_key else "; no key is set (CLAUDE_API_KEY)"
    return Check("claude-code", "ok", f"{program}{key}")


async def coordinator(settings: Settings) -> list[Check]:
    """Ask the quality coordinator how it is, where one judges."""
    judge = make_judges(settings).coordinator
    if judge is None:
        return []
    trouble = (await judge.health()).trouble
    if trouble:
        fix = "start it, or correct COORDINATOR_URL: until it answers, nothing lands"
        return [Check("coordinator", "warning", f"{judge.url}: {trouble}", fix)]
    if not is_encrypted_or_local(judge.url):
        fix = "use https://: who is on the way could approve anything, and it is sent no candidate"
        return [Check("coordinator", "warning", f"{judge.url} answers, in the open", fix)]
    return [Check("coordinator", "ok", f"{judge.url} answers")]


async def valkey(settings: Settings) -> list[Check]:
    """Log in to the Valkey of the mirror, where one is set."""
    address = ValkeyAddress.of(settings.valkey_url)
    if address is None:
        return []
    try:
        await MirrorThread().try_out(address)
    except MirrorTrouble as trouble:
        fix = "correct VALKEY_URL, or start it: work goes on without, and the mirror is made anew later"
        return [Check("valkey", "warning", f"{address}: {trouble.detail}", fix)]
    if address.in_the_open:
        fix = "use valkeys://: who is on the way reads the password, and every task"
        return [Check("valkey", "warning", f"{address} answers, in the open", fix)]
    return [Check("valkey", "ok", f"{address} answers")]


def unused_settings(settings: Settings) -> list[Check]:
    """Name the settings that are set although this version does nothing with them."""
    fix = "it does nothing in this version: unset it"
    return [Check("setting", "warning", f"{name} is set", fix) for name in settings.unused]


def short_secrets(settings: Settings) -> list[Check]:
    """Name the secrets of the settings that are too short to be looked for in what agents write."""
    from orchestrator.secrets.forms import MIN_BYTES  # noqa: PLC0415 - as in `doctor`
    from orchestrator.secrets.held import held_values, too_short  # noqa: PLC0415 - the same

    fix = f"use one of at least {MIN_BYTES} characters: a shorter one is looked for nowhere"
    return [
        Check("secret", "warning", f"{name} is too short to be looked for", fix)
        for name in too_short(held_values(settings))
    ]


def port_free(host: str, port: int) -> Check:
    """Check that a supervisor could listen, where none runs."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            fix = "set ORCHESTRATOR_PORT to another, or end what holds it"
            return Check("port", "missing", f"{host}:{port} cannot be listened on: {error.strerror}", fix)
    return Check("port", "ok", f"{host}:{port} is free; no supervisor runs here")
