"""What an agent inside bubblewrap may try; ids S7 to S25 are those of the security notes."""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.base import HOME, Backend, Bind, Directory, Layers, Limits, SandboxError, Spec, User
from sandbox.bubblewrap import BubblewrapBackend
from sandbox.trusted import ProcessBackend
from tests.kit.processes import marked
from tests.kit.sandboxes import Run, read_status, read_until, run_in
from tests.kit.until import seen

PRELUDE = """
import ctypes, fcntl, os, socket, stat, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    if getattr(libc, name)(*args) == -1:
        raise OSError(ctypes.get_errno(), name)
"""

#: What to try, in Python: it escaped unless it raises OSError.
ATTEMPTS = {
    "S25-core-pattern": "os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY)",
    "S25-any-sysctl": """
        for folder, _, names in os.walk('/proc/sys'):
            for name in names:
                try: os.open(os.path.join(folder, name), os.O_WRONLY)
                except OSError: continue
                raise SystemExit('escaped by ' + folder + '/' + name)
        raise OSError(13, 'all')""",
    "S25-sysrq": "os.open('/proc/sysrq-trigger', os.O_WRONLY)",
    "S12-mount": "call('mount', b'none', b'/tmp', b'tmpfs', 0, None)",
    "S12-remount-root": "call('mount', b'none', b'/', None, 32 | 4096, None)",
    "S12-umount-proc-sys": "call('umount2', b'/proc/sys', 2)",
    "S12-user-namespace": "call('unshare', 0x10000000)",
    "S12-mount-namespace": "call('unshare', 0x20000)",
    "S12-pid-namespace": "call('unshare', 0x20000000)",
    "S12-more-user-namespaces": "os.open('/proc/sys/user/max_user_namespaces', os.O_WRONLY)",
    "S12-ptrace-outside": "call('ptrace', 16, int(sys.argv[1]), 0, 0)",
    "S12-chroot": "os.chroot('/tmp')",
    "S12-hostname": "socket.sethostname('x')",
    "S12-mknod": "os.mknod('/tmp/disk', 0o600 | stat.S_IFBLK, os.makedev(254, 0))",
    "S12-setuid": "os.setuid(0)",
    "S12-setgroups": "os.setgroups([0])",
    "S12-kcore": "os.open('/proc/kcore', os.O_RDONLY)",
    "S7-kill-outside": "os.kill(int(sys.argv[1]), 0)",
    "S7-see-outside": "os.stat('/proc/' + sys.argv[1])",
    "S9-path-socket": "socket.socket(socket.AF_UNIX).connect(sys.argv[2])",
    "S10-abstract-socket": "socket.socket(socket.AF_UNIX).connect('\\0' + sys.argv[3])",
    "network-loopback": "socket.create_connection(('127.0.0.1', int(sys.argv[4])), 2)",
    "network-outside": "socket.create_connection(('1.1.1.1', 53), 2)",
    "network-raw": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "S11-terminal": "os.open('/dev/tty', os.O_RDWR)",
    "S11-tiocsti": """
        for fd in range(3):
            try: fcntl.ioctl(fd, 0x5412, b'x')
            except OSError: continue
            raise SystemExit('escaped by ' + str(fd))
        raise OSError(25, 'no terminal')""",
    "write-root": "os.mkdir('/new')",
    "write-etc": "os.open('/etc/passwd', os.O_WRONLY)",
    "write-usr": "os.open('/usr/new', os.O_CREAT | os.O_WRONLY)",
    "write-usr-through-bin": "os.unlink('/bin/sh')",
    "write-dev": "os.open('/dev/new', os.O_CREAT | os.O_WRONLY)",
}
#: The attempts that an ordinary process on a host does get away with: they prove that the others can fail.
OUTSIDE = {"S7-kill-outside", "S7-see-outside", "S9-path-socket", "S10-abstract-socket", "network-loopback"}


ROOT_ENTRIES = {"bin", "sbin", "lib", "lib32", "lib64", "libx32", "dev", "etc", "home", "proc", "tmp", "usr"}
ROOT_ENTRIES |= {"workspace"}
DEVICES = {"core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty"}
DEVICES |= {"urandom", "zero"}


def attempt_script(name: str) -> str:
    """Return a program that tries it and says how that went."""
    body = textwrap.indent(textwrap.dedent(ATTEMPTS[name]).strip(), "    ")
    return f"{PRELUDE}\ntry:\n{body}\nexcept OSError as e: print('held:', e)\nelse: print('escaped')\n"


@pytest.fixture
def targets(ordinary_user: User) -> Iterator[tuple[str, ...]]:
    """Return a pid, a socket's path, an abstract socket and a TCP port on the host, to aim at."""
    name = secrets.token_hex(8)
    root = Path(tempfile.mkdtemp(prefix="door-"))
    root.chmod(0o755)
    path = root / "socket"
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two, socket.socket() as three:
        one.bind(str(path))
        path.chmod(0o777)
        two.bind("\0" + name)
        three.bind(("127.0.0.1", 0))
        for listener in (one, two, three):
            listener.listen()
        yield str(os.getpid()), str(path), name, str(three.getsockname()[1])
    path.unlink()
    root.rmdir()


async def try_it(backend: Backend, workspace: Directory, name: str, targets: tuple[str, ...]) -> str:
    """Run one attempt and return what it said."""
    command = ("python3", "-c", attempt_script(name), *targets)
    outcome = await run_in(backend, Spec("escape", command, workspace))
    return outcome.stdout + outcome.stderr


@pytest.mark.parametrize("name", ATTEMPTS)
async def test_attempt_is_refused_inside(
    bubblewrap: BubblewrapBackend, workspace: Directory, targets: tuple[str, ...], name: str
) -> None:
    assert (await try_it(bubblewrap, workspace, name, targets)).startswith("held: ")


@pytest.mark.parametrize("name", sorted(OUTSIDE))
async def test_attempt_works_without_a_sandbox(
    ordinary_user: User, workspace: Directory, targets: tuple[str, ...], name: str
) -> None:
    if name == "S7-kill-outside" and os.getuid() != ordinary_user.uid:
        targets = (str(os.getpid()), *targets[1:])
        assert "not permitted" in await try_it(ProcessBackend(ordinary_user), workspace, name, targets)
    else:
        said = await try_it(ProcessBackend(ordinary_user), workspace, name, targets)
        assert said == "escaped\n"


async def test_host_directories_are_not_there(confined: Run, isolated: Backend, reachable_path: Path) -> None:
    outcome = await confined("ls -A / /home /etc /dev")
    root, home, etc, dev = (set(part.split("\n")[1:]) - {""} for part in sections(outcome.stdout))
    own = {"run", "sys"} if isolated.name == "podman" else set()
    assert root - own <= ROOT_ENTRIES
    assert home == {"agent"}
    assert not etc & {"shadow", "sudoers", "machine-id", "resolv.conf", "ssh", "systemd"}
    assert dev - {"mqueue"} <= DEVICES
    if own:
        assert (await confined("ls -A /run /sys")).stdout.split() == [
            "/run:",
            ".containerenv",
            "podman-init",
            "/sys:",
        ]
    hidden = {"/root", "/run", "/sys", "/var", "/work", "/etc/shadow", str(reachable_path)}
    for path in hidden - {f"/{name}" for name in own}:
        assert (await confined(f"ls -d '{path}'")).exit.code != 0


def sections(listing: str) -> list[str]:
    """Return the parts of `ls` of several directories, in the order `/ /home /etc /dev`."""
    parts = {part.split(":\n")[0]: part for part in listing.split("\n\n")}
    return [parts[name] for name in ("/", "/home", "/etc", "/dev")]


async def test_s7_no_word_of_the_host_is_found_in_proc(
    confined: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = secrets.token_hex(8)
    monkeypatch.setenv("CANARY", canary)
    assert (await confined("echo $(cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' ' ')")).stdout
    script = (
        f"grep -a -c '[{canary[0]}]{canary[1:]}' /proc/[0-9]*/environ /proc/[0-9]*/cmdline | grep -v ':0$'"
    )
    assert (await confined(script)).stdout == ""
    pids = await confined("ls /proc | grep -c '^[0-9]'")
    assert int(pids.stdout) < 8


async def test_s25_processes_have_no_privileges_on_the_host(isolated: Backend, workspace: Directory) -> None:
    script = "sleep 100 & echo up; wait"
    async with isolated.open(Spec("bare", ("sh", "-c", script), workspace)) as sandbox:
        await read_until(sandbox, b"up")
        for pid in sandbox.processes():
            status = read_status(pid)
            assert set(status["Uid"].split()) == {str(isolated.user.uid)} != {"0"}
            assert {status[f"Cap{kind}"] for kind in ("Eff", "Prm", "Inh", "Bnd", "Amb")} == {"0" * 16}
            assert status["NoNewPrivs"] == "1"
            kinds = ("user", "mnt", "pid", "net", "ipc", "uts")
            assert not [k for k in kinds if namespace(pid, k) == namespace("self", k)]


def namespace(pid: int | str, kind: str) -> str:
    """Return which namespace of a kind a process is in."""
    return str(Path(f"/proc/{pid}/ns/{kind}").readlink())


async def test_s15_crash_leaves_no_core(confined: Run, workspace: Directory) -> None:
    assert (await confined("ulimit -c unlimited 2>/dev/null; kill -SEGV $$")).exit.signal == 11
    assert list(workspace.path.iterdir()) == []


async def test_s6_environment_shows_in_no_process_list_of_the_host(
    bubblewrap: BubblewrapBackend, workspace: Directory
) -> None:
    canary = secrets.token_hex(8)
    spec = Spec("quiet", ("sh", "-c", "unset SECRET; echo up; exec cat"), workspace, {"SECRET": canary})
    async with bubblewrap.open(spec) as sandbox:
        await read_until(sandbox, b"up")
        assert len(sandbox.processes()) == 1
        await seen(lambda: not marked(canary), "cat has been executed without it, the rest never had it")


@pytest.mark.parametrize(
    ("script", "limits", "said"),
    [
        ("for i in $(seq 40); do sleep 60 & done", Limits(pids=20), "fork"),
        ("head -c 3000000 /dev/zero >/tmp/x", Limits(tmp_mb=2), "No space left"),
        ("head -c 3000000 /dev/zero >$HOME/x", Limits(home_mb=2), "No space left"),
        ("head -c 3000000 /dev/zero >x", Limits(disk_mb=1), ""),
        ("python3 -c 'import os; [os.dup(0) for _ in range(40)]'", Limits(open_files=32), "Too many open"),
        ("head -c 300000000 /dev/zero >/dev/shm/x", Limits(), "No space left"),
    ],
)
async def test_limit_is_enforced(confined: Run, script: str, limits: Limits, said: str) -> None:
    outcome = await confined(script, limits=limits)
    assert not outcome.exit.ok
    assert said in outcome.stderr


async def test_limit_of_processes_lets_that_many_live(confined: Run) -> None:
    many = (
        "for i in $(seq {}); do sleep 60 & done"  # the shell is one of them itself, and seq is over by then
    )
    assert (await confined(many.format(9), limits=Limits(pids=10))).exit.ok
    assert not (await confined(many.format(10), limits=Limits(pids=10))).exit.ok


async def test_siblings_do_not_share_a_limit_of_processes(isolated: Backend, workspace: Directory) -> None:
    script = "for i in 1 2 3 4 5 6; do sleep 60 & done; echo up; wait"
    spec = Spec("sibling", ("sh", "-c", script), workspace, limits=Limits(pids=8))
    async with isolated.open(spec) as one, isolated.open(spec) as two:
        await read_until(one, b"up")
        await read_until(two, b"up")


async def test_overlay_keeps_the_lower_layer_as_it_was(
    confined: Run, layers: Layers, ordinary_user: User
) -> None:
    kept = layers.lower / "kept"
    kept.write_text("base\n")
    os.chown(kept, ordinary_user.uid, ordinary_user.gid)
    outcome = await confined("echo more >>kept; cat kept; echo new >new", workspace=layers)
    assert outcome.stdout == "base\nmore\n", outcome.stderr
    assert kept.read_text() == "base\n"
    assert sorted(path.name for path in layers.upper.iterdir()) == ["kept", "new"]
    again = await confined("cat kept new; rm kept", workspace=layers)
    assert again.stdout == "base\nmore\nnew\n"
    assert list(layers.merged.iterdir()) == []


async def test_overlay_of_a_path_that_mount_would_misread_is_refused(
    confined: Run, layers: Layers, reachable_path: Path
) -> None:
    for name in ("a,lowerdir=b", "a:b", "a\\b", 'a"b'):
        odd = Layers(reachable_path / name, layers.upper, layers.work, layers.merged)
        with pytest.raises(SandboxError, match="cannot be made of"):
            await confined("true", workspace=odd)


async def test_bind_is_read_only_unless_said(
    confined: Run, workspace: Directory, reachable_path: Path
) -> None:
    binds = (
        Bind(reachable_path, "/shown"),
        Bind(workspace.path, "/given", writable=True),
        Bind(workspace.path, f"{HOME}/deep/er"),
    )
    outcome = await confined("touch /given/a && ls /shown $HOME/deep/er && touch /shown/b", binds=binds)
    assert outcome.stdout.split() == ["/home/agent/deep/er:", "a", "/shown:", "workspace"], outcome.stderr
    assert not outcome.exit.ok
    assert "Read-only" in outcome.stderr or "denied" in outcome.stderr


async def test_toolchain_is_shown_at_its_own_place(
    ordinary_user: User, workspace: Directory, reachable_path: Path
) -> None:
    tool = reachable_path / "bin" / "tool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho tooled\n")
    tool.chmod(0o755)
    backend = BubblewrapBackend(ordinary_user, read_only=[tool.parent], path=f"{tool.parent}:/usr/bin")
    outcome = await run_in(backend, Spec("tool", ("tool",), workspace))
    assert outcome.stdout == "tooled\n"
    assert not (await run_in(backend, Spec("tool", ("touch", str(tool)), workspace))).exit.ok


@pytest.mark.parametrize(
    "path", ["/", "/run", "/run/user", "/root", "/proc/1", "/dev", "/etc", "relative", "/nowhere"]
)
def test_toolchain_that_would_show_the_host_is_refused(ordinary_user: User, path: str) -> None:
    with pytest.raises(SandboxError, match="read-only path"):
        BubblewrapBackend(ordinary_user, read_only=[Path(path)])


def test_link_to_the_hosts_root_is_refused_as_a_toolchain(ordinary_user: User, reachable_path: Path) -> None:
    (reachable_path / "link").symlink_to("/")
    with pytest.raises(SandboxError, match="read-only path '/'"):
        BubblewrapBackend(ordinary_user, read_only=[reachable_path / "link"])


def test_nobody_is_run_as_root() -> None:
    for backend in (BubblewrapBackend, ProcessBackend):
        with pytest.raises(SandboxError, match="uid 0"):
            backend(User(0, 0, "root"))


@pytest.mark.skipif(os.getuid() == 0, reason="needs an ordinary user")
def test_ordinary_user_runs_as_nobody_else() -> None:
    with pytest.raises(SandboxError, match="only root"):
        BubblewrapBackend(User(os.getuid() + 1, os.getgid(), "other"))
