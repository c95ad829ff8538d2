"""The podman backend: the image of the operator's choice, rootless, and nothing of it outlives its sandbox.

    setpriv (uid, parent-death signal) > unshare (user, mount, PID namespace; a subuid is root there)
        > setpriv (parent-death signal) > sh (waits for our answer, private podman state, overlay)
            > podman run > conmon > runc or crun > catatonit > sh (says that it started) > the command

Podman by itself leaves containers behind when it, conmon or the supervisor is killed. The invariant here is
that of `sandbox.bubblewrap`: everything after `unshare`, podman and conmon too, lives in one PID namespace
whose init does not go on before this process has answered it. SIGKILL on that init ends all at any moment,
its end is the proof, and it dies with this process. What podman writes about a container is on a file system
that only that namespace mounts: nothing is left to reap, and launches share no lock, only the image, unpacked
once and read-only. Caller: `sandbox.probe`, for all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack
from pathlib import Path

from sandbox.base import (
    Directory,
    Layers,
    Limits,
    Sandbox,
    SandboxError,
    Spec,
    User,
)
from sandbox.cgroup import Cgroups
from sandbox.channel import Channel, channel_ends
from sandbox.clock import Clock, RunningClock
from sandbox.confined import ConfinedSandbox, hold
from sandbox.container import (
    FIRST_FD,
    PRIVATE,
    SCRATCH,
    Place,
    check_visible,
    hidden,
    inner_command,
    run_arguments,
    subordinate_ids,
)
from sandbox.images import Images, check_image
from sandbox.layout import (
    SYSTEM_PATH,
    UID,
    check_read_only,
    check_user,
    environment,
    find_tool,
    identity,
    overlay_options,
)
from sandbox.leaf import Leaf
from sandbox.ports import Ports, own_ports
from sandbox.process import Completed, run_child
from sandbox.procfs import Meet, Stat, below, read_stat
from sandbox.spawn import Spawned

RUNTIMES = ("crun", "runc")
_TOOLS = {
    "podman": "podman",
    "conmon": "conmon",
    "newuidmap": "uidmap",
    "newgidmap": "uidmap",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
    "sh": "dash",
}
_INIT_PLACES = "/usr/libexec/podman:/usr/lib/podman:/usr/libexec/catatonit"
_STATE_MB = 64
#: Podman, conmon, the runtime and the inits count as well where a cgroup counts, thread by thread.
_INITS = 64

# Not podman itself is the init: it would not collect conmon, and wait for it in vain. The kernel makes the
# inner work directory of an overlay ours, and the agents' user could not remove it. Crun refuses hosts with
# cgroups of both versions, if it sees them. $0 label, $1 mount, $2 private directory, $3 and
# $4 options of the agent's /tmp and home, $5 of the overlay or nothing, $6 where to mount that, $7 its work
# directory, $8... the init, podman and the rest.
_ANSWERED = f"echo ready >&{FIRST_FD} && read -r go <&{FIRST_FD} || exit 125\n"
_OUTER = f"""cd /
"$1" -n -t proc proc /proc && "$1" -n -t tmpfs -o mode=0755,size={_STATE_MB}m tmpfs "$2" &&
mkdir "$2/run" "$2/tmp" "$2/libpod" {" ".join(f'"$2/{name}"' for name in SCRATCH)} &&
"$1" -n -t tmpfs -o "$3" tmpfs "$2/agent-tmp" && "$1" -n -t tmpfs -o "$4" tmpfs "$2/agent-home" || exit 125
both=/sys/fs/cgroup/unified
[ ! -d "$both" ] || "$1" -n -t tmpfs -o mode=0555 tmpfs "$both" || exit 125
if [ -n "$5" ]; then
  "$1" -n -i -t overlay -o "$5" overlay "$6" && chown {UID}:{UID} "$7/work" || exit 125
fi
shift 7
exec "$@"
"""


class PodmanBackend:
    """Isolation in a container of an image; see `sandbox.base.Backend`."""

    name = "podman"
    namespaced = True
    clock: Clock = RunningClock()

    def __init__(
        self,
        user: User,
        image: str,
        root: Path,
        *,
        runtime: str = "runc",
        read_only: Iterable[Path] = (),
        path: str = "/usr/local/bin:/usr/bin:/bin",
        layered: bool = True,
        enforced: frozenset[str] = frozenset({"pids", "open_files", "tmp_mb", "home_mb"}),
        tools_path: str = SYSTEM_PATH,
        cgroups: Cgroups | None = None,
    ) -> None:
        """Find the tools and write podman's settings below `root`, which the user must be able to enter.

        Raises `SandboxUnavailable` naming the fix, `SandboxError` for bad paths.
        """
        check_user(user)
        check_image(image)
        self.user = user
        self.image = image
        self.root = root
        self.layered = layered
        self.enforced = enforced
        self.watched = frozenset({"memory_mb", "disk_mb"}) - enforced
        self.tier = "container" if cgroups is None else "container+cgroup"
        self._held_in = cgroups
        self._read_only = tuple(read_only)
        check_read_only(self._read_only)
        self._path = path
        self._tools = {tool: find_tool(tool, package, tools_path) for tool, package in _TOOLS.items()}
        self._tools["catatonit"] = find_tool("catatonit", "catatonit", f"{_INIT_PLACES}:{tools_path}")
        # The container stays in the cgroup that we are in; runc does so by itself where it may make none.
        self._cgroups = ("--cgroups=disabled",) if runtime == "crun" else ()
        self._tools["runtime"] = find_tool(runtime, runtime, tools_path)
        uids, gids = subordinate_ids("uid", user), subordinate_ids("gid", user)
        self._ids = (f"--map-users={uids}", f"--map-groups={gids}")
        check_visible(root)
        self._place = Place(root)
        self._images = Images(self._place, self._tools["podman"], self._run)
        self._settle()

    def _settle(self) -> None:
        """Make the directories, and write what podman reads."""
        place = self._place
        place.root.mkdir(mode=0o711, parents=True, exist_ok=True)
        if not place.store.is_dir():
            place.store.mkdir(mode=0o711)
            os.chown(place.store, self.user.uid, self.user.gid)
        for path, text in place.files(self._tools["catatonit"]).items():
            if not path.exists() or path.read_text() != text:
                place.replace(path, text)

    def seen(self, host: Path, target: str) -> str:
        """Return `target`: inside, host paths mean nothing."""
        return target

    async def fetch_image(self) -> None:
        """Bring the image into the store, and run exactly that from now on, whatever its name comes to mean.

        Raises `SandboxUnavailable` with what podman said.
        """
        self.image = await self._images.fetch(self.image)

    async def discard_images(self) -> None:
        """Empty the store, which its namespace or root must do."""
        await self._images.discard()

    async def _run(self, command: Iterable[str], deadline_s: float) -> Completed:
        """Run something as a launch would, but for the channel: nobody has to answer it."""
        argv = [*self._outside(_OUTER, "images", Limits(), None), *command]
        env = {"PATH": SYSTEM_PATH, **self._place.environment()}
        return await run_child(argv, env=env, deadline_s=deadline_s)

    def reserve_ports(self, count: int) -> AbstractContextManager[Ports]:
        """Give numbers that are free in each sandbox's own network."""
        return own_ports(count)

    def open(self, spec: Spec) -> AbstractAsyncContextManager[Sandbox]:
        """Start the command; see `sandbox.base.Backend.open`."""
        return hold(self._launch_nowait, spec, self._held_in, _INITS, self.user)

    def _launch_nowait(self, spec: Spec, leaf: Leaf | None) -> ContainerSandbox:
        env = environment(self._path, spec)
        variables = hidden(env)
        layers = spec.workspace if isinstance(spec.workspace, Layers) else None
        if layers is not None and not self.layered:
            raise SandboxError("overlays do not work on this host: use a Directory as workspace")
        workspace = spec.workspace.path if isinstance(spec.workspace, Directory) else spec.workspace.merged
        argv = [
            *self._outside(_ANSWERED + _OUTER, spec.label, spec.limits, layers),
            *(self._tools["catatonit"], "--", self._tools["podman"], "--log-level=error"),
            *("--runtime", self._tools["runtime"], "run", *self._cgroups),
            *run_arguments(
                spec,
                place=self._place,
                workspace=workspace,
                read_only=self._read_only,
                variables=variables,
            ),
            *(self.image, *inner_command(spec, env, self.enforced)),
        ]
        near, far = channel_ends()
        with ExitStack() as ours, far:
            ours.callback(near.close)
            passed = enumerate((far.fileno(), *spec.pass_fds), FIRST_FD)
            main = Spawned(
                argv,
                env={"PATH": SYSTEM_PATH, **self._place.environment(), **variables},
                fds=dict(passed),
            )
            ours.pop_all()
        return ContainerSandbox(main, Channel(near), spec.command[0], leaf)

    def _outside(self, script: str, label: str, limits: Limits, layers: Layers | None) -> list[str]:
        """Return the way from our identity into namespaces of our own, bound to the life of this thread.

        There the agents' user is `UID`, and root is a subordinate id that owns nothing but the store.
        """
        setpriv, sh = self._tools["setpriv"], self._tools["sh"]
        overlay = ("", "", "")
        if layers is not None:
            overlay = (overlay_options(layers), str(layers.merged), str(layers.work))
        ours = f"nosuid,nodev,mode=0700,uid={UID},gid={UID}"
        return [
            *(
                setpriv,
                *identity(self.user),
                "--pdeathsig",
                "KILL",
                "--",
                self._tools["unshare"],
                "--user",
                *self._ids,
            ),
            *(f"--map-user={UID}", f"--map-group={UID}", "--setuid=0", "--setgid=0"),
            *("--mount", "--pid", "--fork", "--kill-child=KILL", "--"),
            # Becoming another user has taken the parent-death signal away. This root is who binds, and some
            # of what agents are shown lies where only their group may go.
            *(setpriv, f"--groups={UID}", "--pdeathsig", "KILL", "--", sh, "-c", script),
            *(label, self._tools["mount"], PRIVATE),
            *(
                f"{ours},size={limits.held_mb(limits.tmp_mb)}m",
                f"{ours},size={limits.held_mb(limits.home_mb)}m",
                *overlay,
            ),
        ]


class ContainerSandbox(ConfinedSandbox):
    """A live container; see `sandbox.base.Sandbox` for its promises."""

    _container: Stat | None = None

    def _begin(self, speaker: int) -> None:
        """Find the container's own init: the parent of the command, which has just spoken."""
        command = read_stat(speaker)
        self._container = read_stat(command.ppid) if command is not None else None

    def _inside(self, meet: Meet | None = None) -> list[Stat]:
        """Return what lives in the container, without its init."""
        if self._container is None or self._over:
            return []
        return [
            stat for stat in below(self._container.pid, anew=bool(meet), meet=meet).values() if stat.alive
        ]

    def _count_living(self) -> int:
        return len(self._inside())

    def _count_inside(self, found: list[Stat]) -> int:
        return len(self._inside())
