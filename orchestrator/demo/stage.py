"""Where the demo takes place: a temporary directory, a bare remote, and a supervisor of its own.

The invariant: everything is entered on the caller's exit stack in the order in which it comes to exist, so
that however the demo is cut, the supervisor is stopped first, then what is left of its tree is killed and
proven gone, then the directory is removed. Called by `orchestrator.demo.command`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import stat
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import trio

from orchestrator.cli.failure import Failed
from orchestrator.demo.project import FILES
from orchestrator.repo.git import Extra, Git
from orchestrator.repo.removal import remove_tree
from sandbox.base import Exit, SandboxUnavailable
from sandbox.probe import default_user, probe
from sandbox.process import DEVNULL, PIPE, Child, open_child

READY_S = 60.0
STOP_S = 30.0
MAX_LINE_BYTES = 8192
LOG_TAIL_LINES = 25
#: Where programs are looked for, beside where git and bubblewrap were found.
SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


@dataclass(slots=True)
class Stage:
    """A stage that is set, and what is known about how it was cleared."""

    root: Path
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    #: What the environment of every agent's process holds, so that /proc can be asked for them.
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    #: Why agents run as plain processes; empty where a real sandbox works.
    unsandboxed: str = ""
    url: str = ""
    sandbox: str = ""
    user: str = ""
    ready_s: float = 0.0
    base: str = ""
    supervisor: Child | None = None
    #: How the supervisor ended, once it has.
    ended: Exit | None = None

    @property
    def remote(self) -> Path:
        """The bare repository that work lands on."""
        return self.root / "remotes" / "greeter.git"

    @property
    def socket(self) -> Path:
        """The supervisor's unix socket."""
        return self.root / "home" / "orchestrator.sock"

    @property
    def log(self) -> Path:
        """The supervisor's log."""
        return self.root / "serve.log"

    @property
    def git(self) -> Git:
        """Git on the remote."""
        return Git(self.remote)

    def log_tail(self) -> list[str]:
        """Return the last lines of the supervisor's log."""
        with contextlib.suppress(OSError):
            return self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return []


def open_stage(stack: AsyncExitStack) -> Stage:
    """Make the stage's directory, which goes when the stack is left."""
    # Every user must be able to enter it, since root's agents run as another.
    candidates = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 - made by mkdtemp
    parent = next((path for path in candidates if _open_to_all(path)), candidates[0])
    root = Path(tempfile.mkdtemp(prefix="orchestrator-demo-", dir=parent))
    stack.push_async_callback(remove_tree, root)
    root.chmod(0o711)
    for name in ("remotes", "project", "tmp"):
        (root / name).mkdir()
    (root / "tmp").chmod(0o711)
    return Stage(root)


def _open_to_all(path: Path) -> bool:
    return path.is_dir() and all(part.stat().st_mode & stat.S_IXOTH for part in (path, *path.parents))


async def make_remote(stage: Stage) -> None:
    """Make the bare repository, with the project as its one commit."""
    project = stage.root / "project"
    for name, text in FILES.items():
        path = project / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    who = {"NAME": "Demo", "EMAIL": "demo@localhost"}
    identity = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}
    there = Extra(
        env={**identity, "GIT_WORK_TREE": str(project), "GIT_INDEX_FILE": str(stage.root / "index")}
    )
    await stage.git.run("init", "--quiet", "--bare", "--initial-branch=main")
    await stage.git.run("add", "--all", extra=there)
    await stage.git.run("commit", "--quiet", "--message=Greet the world", extra=there)
    stage.base = (await stage.git.run("rev-parse", "refs/heads/main")).decode().strip()


async def find_sandbox(stage: Stage) -> None:
    """Find out whether a real sandbox works here; the demo's agents may do without one, being its own."""
    user = default_user()
    stage.user = user.name
    try:
        await probe("auto", user=user)
    except SandboxUnavailable as error:
        stage.unsandboxed = str(error)


async def start_supervisor(stage: Stage, stack: AsyncExitStack) -> None:
    """Start a supervisor on its defaults and wait until it takes work."""
    began = trio.current_time()
    log = os.open(stage.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        child = await stack.enter_async_context(
            open_child(
                (sys.executable, "-m", "orchestrator", "serve", "--json"),
                env=_settings(stage),
                cwd=stage.root,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=log,
            )
        )
    finally:
        os.close(log)
    stage.supervisor = child
    stack.push_async_callback(_stop, stage, child)
    with trio.move_on_after(READY_S):
        line = await _first_line(child)
        if line:
            announced = json.loads(line)
            stage.url, stage.sandbox = announced["url"], announced["sandbox"]
            stage.ready_s = trio.current_time() - began
            return
    ended = child.reap_nowait()
    how = f"ended with {ended}" if ended else f"was not ready after {READY_S:.0f} s"
    raise Failed(f"the supervisor {how}", code="demo_failed")


def _settings(stage: Stage) -> dict[str, str]:
    places = [str(Path(found).parent) for name in ("git", "bwrap") if (found := shutil.which(name))]
    settings = {
        "PATH": os.pathsep.join(dict.fromkeys([*places, *SYSTEM_PATH])),
        "HOME": str(stage.root),
        "TMPDIR": str(stage.root / "tmp"),
        "LANG": "C.UTF-8",
        "ORCHESTRATOR_HOME": str(stage.root / "home"),
        "ORCHESTRATOR_PORT": "0",
        "ORCHESTRATOR_API_KEY": stage.token,
        "PROJECTS_DIR": str(stage.root / "remotes"),
        "MAX_CONCURRENT_AGENTS": "3",
        "ORCHESTRATOR_QUEUE_CONCURRENCY": "3",
        "LOG_FORMAT": "console",
        "PYTHONDONTWRITEBYTECODE": "1",
        # The child imports what we import: from a checkout without an installation, too.
        "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry),
    }
    if stage.unsandboxed:
        settings["SANDBOX_ENABLED"] = "false"
    return settings


async def _first_line(child: Child) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES:
        chunk = await child.stdout.receive_some()
        if not chunk:
            await child.wait()
            return b""
        line += chunk
    return line


async def _stop(stage: Stage, child: Child) -> None:
    """Ask the supervisor to stop and wait for it; what does not, is killed when the stack goes on."""
    child.signal_nowait(signal.SIGINT)  # at once: nobody will resume what is still at work
    with trio.move_on_after(STOP_S):
        stage.ended = await child.wait()
