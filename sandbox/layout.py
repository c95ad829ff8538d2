"""What a bubblewrap sandbox looks like inside: the arguments of `bwrap`, and nothing that runs.

The invariant: the host's `/`, `/run`, `/home`, `/root` and `/sys` are never shown, `/proc/sys` and the
root itself cannot be written, and no path or value is ever parsed by a shell. Caller:
`sandbox.bubblewrap`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from sandbox.base import (
    HOME,
    MIB,
    WORKSPACE,
    Bind,
    Layers,
    SandboxError,
    SandboxUnavailable,
    Spec,
    User,
)

#: Where the host's own tools are found, whatever PATH this process or a task was given.
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
LABEL = re.compile(r"[A-Za-z0-9._-]{1,64}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Trees that no bind may cover or show: they would undo the sandbox or hide what the rest needs.
_FORBIDDEN_TARGETS = ("/proc", "/dev", "/sys", "/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64")
_FORBIDDEN_SOURCES = ("/proc", "/sys", "/dev", "/run", "/boot")
_TOO_WIDE = {"/", "/etc", "/home", "/root", "/tmp", "/var", HOME, WORKSPACE}  # noqa: S108
_USR_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
#: What programs under /usr look for in /etc; where it exists, read-only. `alternatives` is where
#: Debian's /usr/bin/awk and friends lead through.
_ETC_PATHS = (
    "alternatives",
    "ssl",
    "pki/tls/certs",
    "pki/ca-trust",
    "ld.so.cache",
)
#: The same, but small: copied, because each bind costs bwrap a reading of the mount table.
_ETC_COPIES = ("services", "protocols")
_COPY_BYTES = 65536
_LOCALTIME = Path("/etc/localtime")
UID = 1000
#: Beyond what any runtime serves; descriptors travel together.
MAX_PORTS = 16
SETSID = "/usr/bin/setsid"
#: A fresh /dev/pts counts from 0.
FIRST_TERMINAL = "/dev/pts/0"


def find_tool(tool: str, package: str, path: str = SYSTEM_PATH) -> str:
    """Return the path of a host's tool; raises `SandboxUnavailable` naming the package to install."""
    found = shutil.which(tool, path=path)
    if found is None:
        raise SandboxUnavailable(f"{tool} is not installed (apt install {package})")
    return found


def check_user(user: User) -> None:
    """Raise `SandboxUnavailable` for an identity that agents may not have or that we cannot give them."""
    if user.uid == 0:
        raise SandboxUnavailable("agents never run as uid 0: set SANDBOX_USER to another user")
    if os.geteuid() not in {0, user.uid}:
        raise SandboxUnavailable(f"only root can run agents as {user.name}: unset SANDBOX_USER")


def identity(user: User) -> list[str]:
    """Return the options of `setpriv` that take us to `user`: none where we are not root, and so are it."""
    if os.geteuid() != 0:
        return []
    return ["--reuid", str(user.uid), "--regid", str(user.gid), "--clear-groups"]


def environment(path: str, spec: Spec) -> dict[str, str]:
    """Return what a command inside finds in its environment; the task's own come last."""
    given = {"PATH": path, "HOME": HOME, "LANG": "C.UTF-8", "TMPDIR": "/tmp", **spec.env}  # noqa: S108
    return given | {"PATH": search_path(given["PATH"], spec)}


def search_path(path: str, spec: Spec) -> str:
    """Return where programs are looked for inside, given what `PATH` says."""
    return ":".join((*spec.first_on_path, path))


def check_spec(spec: Spec) -> None:
    """Raise `SandboxError` for a spec that could not be passed on to the letter."""
    if not LABEL.fullmatch(spec.label):
        raise SandboxError(f"label {spec.label!r} is not 1 to 64 of letters, digits, '-', '_', '.'")
    if not spec.command:
        raise SandboxError("the command is empty")
    for name in spec.env:
        if not _VARIABLE.fullmatch(name):
            raise SandboxError(f"environment variable {name!r} is not a name that a shell would keep")
    for text in (*spec.command, *spec.env.values(), *spec.first_on_path, *(b.target for b in spec.binds)):
        if "\0" in text:
            raise SandboxError("a NUL byte in a command, an environment value or a bind")
    for fd in spec.pass_fds:
        if fd < 3:
            raise SandboxError(f"descriptor {fd} cannot be passed: 0, 1 and 2 are the command's streams")
    _check_way_in(spec)
    for bind in spec.binds:
        _check_target(bind)


def _check_way_in(spec: Spec) -> None:
    if spec.terminal is not None and not all(0 < side < 1 << 16 for side in spec.terminal):
        raise SandboxError(f"a terminal cannot have {spec.terminal} columns and rows")
    if spec.listen is not None and len(spec.listen.numbers) > MAX_PORTS:
        raise SandboxError(f"{len(spec.listen.numbers)} ports are more than {MAX_PORTS}")


def last_steps(spec: Spec, fd: int, *, leads: bool = False) -> str:
    """Return the end of the script by which each launch inside becomes the command, once all else is ready.

    Positional: the command. `fd` is the launch channel. Where something has to be brought in first, it waits
    for our answer. No variable is set, for it might be the task's. Where the script `leads` a process group,
    only a child of it can become a session's leader, without which no terminal is controlled.
    """
    steps = [f"echo started >&{fd}"]
    if waits(spec):
        steps.append(f"(read -r go <&{fd}) || exit 125")
    if spec.terminal is None:
        return "\n".join((*steps, f'exec "$@" {fd}>&-'))
    become = f'{SETSID} -c "$@" 2>&0 {fd}>&-'
    return "\n".join(
        (
            f'test -x {SETSID} || {{ echo "a terminal needs {SETSID} (util-linux) inside" >&2; exit 125; }}',
            *steps,
            # What a shell that waits remarks on the command's end is not for the terminal.
            f"exec 0<>{FIRST_TERMINAL} 1>&0 2>/dev/null || exit 125",
            f"echo attached >&{fd}",
            f"{become}\nexit $?" if leads else f"exec {become}",
        )
    )


def waits(spec: Spec) -> bool:
    """Return whether the launch waits inside for what we bring in."""
    return spec.terminal is not None or spec.listen is not None


def _check_target(bind: Bind) -> None:
    target = PurePosixPath(bind.target)
    normal = os.path.normpath(bind.target) == bind.target and target.is_absolute()
    if not normal or bind.target == "/" or _within(bind.target, _FORBIDDEN_TARGETS):
        raise SandboxError(f"cannot bind at {bind.target!r}: it must be a plain path outside the system's")


def _within(path: str, trees: Iterable[str]) -> bool:
    return any(path == tree or path.startswith(tree + "/") for tree in trees)


def check_read_only(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Return the toolchain paths to show at their own place; raises `SandboxError` for a dangerous one."""
    shown = []
    for path in paths:
        real = os.path.realpath(path)
        for text in (str(path), real):
            if not Path(text).is_absolute() or os.path.normpath(text) != text or "\0" in text:
                raise SandboxError(f"read-only path {text!r} is not a plain absolute path")
            if text in _TOO_WIDE or _within(text, _FORBIDDEN_SOURCES):
                raise SandboxError(f"read-only path {text!r} shows too much of the host: name one below")
        if not path.exists():
            raise SandboxError(f"read-only path {path} does not exist")
        if not _within(real, ("/usr",)) or not _within(str(path), ("/usr",)):
            shown.append(path)
    return tuple(shown)


def overlay_options(layers: Layers) -> str:
    """Return the mount options of an overlay; raises `SandboxError` for paths that `mount` would misread."""
    shared = [path for path in (layers.cover, layers.lower, layers.below) if path is not None]
    for path in (*shared, layers.upper, layers.work, layers.merged):
        if not path.is_absolute() or set(str(path)) & set(',:\\"\n\0'):
            raise SandboxError(f'an overlay cannot be made of {str(path)!r}: it holds , : " or \\')
    lower = ":".join(map(str, shared))
    return f"lowerdir={lower},upperdir={layers.upper},workdir={layers.work},userxattr"


def system_arguments() -> list[str]:
    """Return the part that is the same for every sandbox of this host: /usr and what it needs of /etc."""
    arguments = ["--ro-bind", "/usr", "/usr"]
    for name in _USR_LINKS:
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    for name in _ETC_PATHS:
        path = Path("/etc", name)
        if path.exists():
            arguments += ["--ro-bind", str(path), str(path)]
    if _LOCALTIME.exists():
        zone = os.path.realpath(_LOCALTIME)
        how = "--symlink" if _within(zone, ("/usr",)) else "--ro-bind"
        arguments += [how, zone, str(_LOCALTIME)]
    return arguments


def system_files() -> dict[str, bytes]:
    """Return small files of the host's /etc that hold nothing private, to be copied."""
    found = {}
    for name in _ETC_COPIES:
        path = Path("/etc", name)
        if path.is_file() and path.stat().st_size <= _COPY_BYTES:
            found[str(path)] = path.read_bytes()
    return found


def etc_files(label: str) -> dict[str, bytes]:
    """Return the files of /etc that say who the agent is and nothing about the host."""
    agent = f"agent:x:{UID}:{UID}:agent:{HOME}:/bin/sh"
    nobody = "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin"
    texts = {
        "/etc/passwd": f"root:x:0:0:root:/nonexistent:/usr/sbin/nologin\n{agent}\n{nobody}\n",
        "/etc/group": f"root:x:0:\nagent:x:{UID}:\nnogroup:x:65534:\n",
        "/etc/hosts": f"127.0.0.1 localhost {label}\n::1 localhost\n",
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n",
    }
    return {path: text.encode() for path, text in texts.items()}


def isolation_arguments(spec: Spec, system: Iterable[str], files: Mapping[str, int]) -> list[str]:
    """Return namespaces, privileges and the file system up to the workspace; `files` maps paths to fds."""
    arguments = [
        *("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"),
        *("--clearenv", "--cap-drop", "ALL", "--uid", str(UID), "--gid", str(UID), "--hostname", spec.label),
        # Made before what goes into them: --perms would hold for parents that come into being with it.
        *("--perms", "0755", "--dir", "/home", "--perms", "0755", "--dir", "/etc"),
        *system,
        *("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"),
        *("--dev", "/dev", *_tmpfs("/dev/shm", spec.limits.held_mb(spec.limits.shm_mb))),  # noqa: S108
        *_tmpfs("/tmp", spec.limits.held_mb(spec.limits.tmp_mb)),  # noqa: S108
        *_tmpfs(HOME, spec.limits.held_mb(spec.limits.home_mb), mode="0700"),
    ]
    for path, fd in files.items():
        arguments += ["--perms", "0444", "--file", str(fd), path]
    return arguments


def _tmpfs(target: str, size_mb: int, mode: str = "1777") -> tuple[str, ...]:
    return ("--perms", mode, "--size", str(size_mb * MIB), "--tmpfs", target)


def content_arguments(
    spec: Spec, workspace: Path, read_only: Iterable[Path], env: Mapping[str, str]
) -> list[str]:
    """Return toolchains, workspace, binds and environment; last of all the root becomes read-only."""
    arguments = []
    for path in read_only:
        arguments += ["--ro-bind", str(path), str(path)]
    arguments += ["--bind", str(workspace), WORKSPACE]
    for bind in spec.binds:
        arguments += ["--bind" if bind.writable else "--ro-bind", str(bind.source), bind.target]
    arguments += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", WORKSPACE]
    for name, value in env.items():
        arguments += ["--setenv", name, value]
    return arguments
