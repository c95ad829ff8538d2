"""What a podman sandbox looks like inside: the arguments of `podman run`, its files, and nothing that runs.

The invariant: no value of a task's environment is ever an argument, which all may read, or a variable that
podman or its tools would obey: values travel under numbered names that mean nothing to anybody, and get their
own names from a shell inside. Caller: `sandbox.podman`.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import resource
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox.base import HOME, MIB, WORKSPACE, SandboxError, SandboxUnavailable, Spec, User
from sandbox.layout import UID, last_steps
from sandbox.spawn import AGENTS_OOM_SCORE

#: System calls that podman's own profile allows, on some distributions at least, and that an agent has no use
#: for: much kernel, many holes, and the ways into further namespaces.
REFUSED_CALLS = frozenset(
    {
        *("io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd", "perf_event_open", "bpf"),
        *("keyctl", "add_key", "request_key", "name_to_handle_at", "open_by_handle_at", "lookup_dcookie"),
        *("unshare", "setns", "clone", "clone3", "mount", "umount", "umount2", "pivot_root", "mount_setattr"),
        *("fsopen", "fsconfig", "fsmount", "fspick", "move_mount", "open_tree"),
        *("kexec_load", "kexec_file_load"),
    }
)
#: `clone` is for processes and threads; without `clone3` the C library goes back to it.
_NEW_NAMESPACES = 0x7E020000
_CLONE = {
    "names": ["clone"],
    "action": "SCMP_ACT_ALLOW",
    "args": [{"index": 0, "value": _NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
}
#: Where distributions put the profile that podman would use by itself.
PROFILES = (Path("/etc/containers/seccomp.json"), Path("/usr/share/containers/seccomp.json"))
#: Put into the environment by podman and by shells; they are nobody's wish.
_STRAY = ("container", "HOSTNAME", "TERM", "PWD", "OLDPWD", "SHLVL", "_")
#: Where each launch mounts a file system of its own, in its own namespace, for podman's state: a directory
#: that every host has, that shows agents' users nothing anyway, and short: podman refuses over 50 characters.
PRIVATE = "/root"
#: The agent's file systems in memory: by the directory in `PRIVATE` that each is, where it is seen.
SCRATCH = {"agent-tmp": "/tmp", "agent-home": HOME}  # noqa: S108
#: `unshare`, and `catatonit`, the first process inside, count as well.
_INITS = 2
#: Images need as many: those up to the agent's own.
_MIN_IDS = 1001
_MAX_IDS = 65536
#: The first descriptor that podman passes on; it knows only how many follow.
FIRST_FD = 3
_DIGITS = range(3, 10)

# $0 label, $1... the command.
_INNER = """{ceiling}
{variables}
case "$1" in */*) test -x "$1" && test ! -d "$1" ;; *) command -v "$1" >/dev/null ;; esac ||
{{ echo missing >&{fd}; exit 127; }}
{last_steps}
"""
# Numbers of two digits are understood by bash and by busybox's shell, not by dash.
_MOVE = """for shell in /bin/bash /usr/bin/bash /bin/sh; do test -x "$shell" && break; done
exec "$shell" -c 'exec {moves}; exec /bin/sh -c "$@"' move "$@"
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a backend keeps what all its sandboxes share, and what podman is told about it."""

    root: Path

    @property
    def store(self) -> Path:
        """The images, unpacked once for all sandboxes."""
        return self.root / "store"

    @property
    def seccomp(self) -> Path:
        """The profile of allowed system calls."""
        return self.root / "seccomp.json"

    @property
    def containers(self) -> Path:
        """Podman's own settings: the host's have no effect."""
        return self.root / "containers.conf"

    @property
    def storage(self) -> Path:
        """Podman's settings of its storage."""
        return self.root / "storage.conf"

    @property
    def fetched(self) -> Path:
        """What was fetched from which archive."""
        return self.root / "fetched.json"

    def replace(self, path: Path, text: str) -> None:
        """Write a file that all may read, at once as a whole."""
        half = path.with_name(f"{path.name}.{os.getpid()}")
        half.write_text(text)
        half.chmod(0o644)
        half.rename(path)

    def environment(self) -> dict[str, str]:
        """Return what podman itself is told: to be rootless already, and where to put everything."""
        return {
            "HOME": PRIVATE,
            "XDG_RUNTIME_DIR": f"{PRIVATE}/run",
            "TMPDIR": f"{PRIVATE}/tmp",  # noqa: S108
            "CONTAINERS_CONF": str(self.containers),
            "CONTAINERS_STORAGE_CONF": str(self.storage),
            "_CONTAINERS_USERNS_CONFIGURED": "done",
            "_CONTAINERS_ROOTLESS_UID": str(UID),
            "_CONTAINERS_ROOTLESS_GID": str(UID),
        }

    def files(self, init: str) -> dict[Path, str]:
        """Return the texts of the files."""
        engine = {
            "cgroup_manager": "cgroupfs",
            "events_logger": "none",
            "init_path": init,
            "lock_type": "file",
            "tmp_dir": f"{PRIVATE}/libpod",
        }
        storage = {
            "driver": "overlay",
            "runroot": f"{PRIVATE}/runroot",
            "graphroot": f"{PRIVATE}/root",
            "rootless_storage_path": f"{PRIVATE}/root",
        }
        images = f"[storage.options]\nadditionalimagestores = {json.dumps([str(self.store)])}\n"
        return {
            self.containers: f"[engine]\n{_toml(engine)}",
            self.storage: f"[storage]\n{_toml(storage)}{images}",
            self.seccomp: refusing_profile(PROFILES),
        }


def _toml(values: Mapping[str, str]) -> str:
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def refusing_profile(places: Iterable[Path]) -> str:
    """Return podman's seccomp profile without `REFUSED_CALLS`; what it does not name is refused."""
    for path in places:
        if not path.exists():
            continue
        profile = json.loads(path.read_text())
        for rule in profile["syscalls"]:
            if rule["action"] == "SCMP_ACT_ALLOW":
                rule["names"] = [name for name in rule["names"] if name not in REFUSED_CALLS]
        profile["syscalls"] = [_CLONE, *(rule for rule in profile["syscalls"] if rule["names"])]
        return json.dumps(profile)
    raise SandboxUnavailable(
        "podman's seccomp profile is missing: /usr/share/containers/seccomp.json"
        " (apt install golang-github-containers-common)"
    )


def hidden(env: Mapping[str, str]) -> dict[str, str]:
    """Return the values by the names under which they travel, in the order of `env`."""
    prefix = "SANDBOX_VALUE"
    while any(name.startswith(prefix) for name in env):
        prefix += "_"
    return {f"{prefix}{number}": value for number, value in enumerate(env.values())}


def inner_command(spec: Spec, env: Mapping[str, str], enforced: frozenset[str]) -> list[str]:
    """Return what the container starts: it gives variables and descriptors their names, and says so.

    Our channel comes in as the first passed descriptor; raises `SandboxError` where there is no digit for it.
    """
    channel = next((fd for fd in _DIGITS if fd not in spec.pass_fds), None)
    if channel is None:
        raise SandboxError("descriptors 3 to 9 are all passed: one must be left for the launch")
    sources = list(hidden(env))
    variables = [
        f"unset {' '.join(_STRAY)}",
        *(f'export {name}="${source}"' for name, source in zip(env, sources, strict=True)),
        f"unset {' '.join(sources)}",
    ]
    ceiling = ":"
    if spec.limits.pids is not None and "pids" in enforced:
        # Not by --ulimit: runc's own threads would count as the agent's for a moment.
        number = spec.limits.pids + _INITS
        ceiling = f"ulimit -u {number} 2>/dev/null || ulimit -p {number} || exit 125"
    last = last_steps(spec, channel, leads=True)
    script = _INNER.format(fd=channel, ceiling=ceiling, variables="\n".join(variables), last_steps=last)
    moves = _moves((channel, *spec.pass_fds))
    if not moves:
        return ["/bin/sh", "-c", script, spec.label, *spec.command]
    return ["/bin/sh", "-c", _MOVE.format(moves=moves), "move", script, spec.label, *spec.command]


def _moves(wanted: Sequence[int]) -> str:
    """Return the redirections that bring descriptors 3, 4, ... to the wanted numbers, in any order."""
    given = range(FIRST_FD, FIRST_FD + len(wanted))
    if list(wanted) == list(given):
        return ""
    above = max(*wanted, given[-1]) + 1
    aside = [f"{above + number}<&{fd} {fd}<&-" for number, fd in enumerate(given)]
    home = [f"{fd}<&{above + number} {above + number}<&-" for number, fd in enumerate(wanted)]
    return " ".join(aside + home)


def run_arguments(
    spec: Spec,
    *,
    place: Place,
    workspace: Path,
    read_only: Iterable[Path],
    variables: Mapping[str, str],
) -> list[str]:
    """Return the arguments of `podman run` up to the image's name."""
    arguments = [
        # No network, no privileges, no log, nothing that podman would add by itself.
        *("--network=none", "--no-hosts", "--http-proxy=false", "--pull=never", "--image-volume=ignore"),
        "--no-healthcheck",  # podman would ask systemd for a timer, and complain to the agent where it cannot
        *("--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges"),
        *(
            f"--security-opt=seccomp={place.seccomp}",
            "--security-opt=mask=/sys",
            "--security-opt=label=disable",
        ),
        *("--log-driver=passthrough", "--entrypoint=", "--init", f"--user={UID}:{UID}"),
        f"--oom-score-adj={AGENTS_OOM_SCORE}",  # podman would set what we had given them back to 0
        f"--passwd-entry=agent:*:{UID}:{UID}:agent:{HOME}:/bin/sh",
        *(f"--name={spec.label}", f"--label=agent={spec.label}", f"--hostname={spec.label}"),
        *(f"--preserve-fds={1 + len(spec.pass_fds)}", f"--workdir={WORKSPACE}"),
        f"--shm-size={spec.limits.held_mb(spec.limits.shm_mb)}m",
        *_ulimits(spec),
    ]
    # Not by --tmpfs: runtimes then give it the mode of what the image has there, and to root.
    for name, target in SCRATCH.items():
        arguments += _volume(Path(PRIVATE, name), target, "rw,nosuid,nodev")
    for path in (*read_only, workspace, *(bind.source for bind in spec.binds)):
        check_visible(path)
    for path in read_only:
        arguments += _volume(path, str(path), "ro")
    arguments += _volume(workspace, WORKSPACE, "rw,nosuid,nodev")
    for bind in spec.binds:
        arguments += _volume(bind.source, bind.target, "rw,nosuid,nodev" if bind.writable else "ro")
    return [*arguments, *(f"--env={name}" for name in variables)]


def check_visible(path: Path) -> None:
    """Raise `SandboxError` for a path that `PRIVATE` covers."""
    if path.is_relative_to(PRIVATE):
        raise SandboxError(
            f"{path} is below {PRIVATE}, which podman's sandboxes cannot show: put it elsewhere"
        )


def _volume(source: Path, target: str, options: str) -> tuple[str]:
    for text in (str(source), target):
        if set(text) & set(':,"\n\0'):
            raise SandboxError(f'podman cannot bind {text!r}: it holds : , " or a line break')
    return (f"--volume={source}:{target}:{options}",)


def _ulimits(spec: Spec) -> list[str]:
    limits = spec.limits
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = limits.open_files if hard == resource.RLIM_INFINITY else min(limits.open_files, hard)
    ceilings = {"core": 0, "nofile": files}
    if limits.disk_mb is not None:
        ceilings["fsize"] = limits.disk_mb * MIB
    return [f"--ulimit={name}={value}:{value}" for name, value in ceilings.items()]


def subordinate_ids(kind: str, user: User) -> str:
    """Return a user's subordinate ids as `unshare` wants them; raises `SandboxUnavailable` with the fix."""
    path = Path(f"/etc/sub{kind}")
    lines = path.read_text().splitlines() if path.exists() else []
    names = {user.name, str(user.uid)}
    with contextlib.suppress(KeyError):
        names.add(pwd.getpwuid(user.uid).pw_name)
    for line in lines:
        name, _, rest = line.partition(":")
        start, _, count = rest.partition(":")
        if name in names and start.isdigit() and count.isdigit() and int(count) >= _MIN_IDS:
            return f"{start},0,{min(int(count), _MAX_IDS)}"
    raise SandboxUnavailable(
        f"user {user.name} has no {_MIN_IDS} subordinate {kind}s in {path}"
        f" (as root: usermod --add-sub{kind}s 200000-265535 {user.name}; any range that no line there has)"
    )
