"""The sandbox that agents run in: chosen by the settings and the probe, held while the process serves.

Invariant: no agent starts before what an earlier run left in this instance's cgroups is dead. Called by
`assembly`, which holds the lock of the state directory by then: what has this instance's name is nobody
else's.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from orchestrator.agents.claude_cli import Place, Program, own_program
from orchestrator.config import Settings
from orchestrator.repo.removal import remove_tree
from sandbox.base import Backend, Directory, SandboxError
from sandbox.delegation import instance_of
from sandbox.podman import PodmanBackend
from sandbox.probe import Probed, default_user, probe, user_from_name

log = logging.getLogger(__name__)

#: How long what an earlier run left may take to die; what does not is tried again at the next start.
REAP_S = 5.0
#: What package managers and their languages are called.
SETUP_TOOLS = ("python3", "uv", "node", "npm", "pnpm", "yarn", "cargo", "rustc", "go", "java", "mvn")
#: What one agent could take from everybody else where its sandbox does not hold it.
CEILINGS = {"memory_mb": "memory", "cpus": "CPU"}


def scratch_of(settings: Settings) -> Path:
    """Return the directory of what is thrown away: files that agents only read, homes of plain processes."""
    return settings.home / "scratch"


def make_scratch(scratch: Path) -> None:
    """Make the directory where it is not there (any more); it may be entered by all, and read by us."""
    scratch.mkdir(exist_ok=True)
    scratch.chmod(0o711)


@asynccontextmanager
async def open_backend(settings: Settings) -> AsyncGenerator[Backend, None]:
    """Hold the sandbox that works here, and end what an earlier run left of this instance.

    Raises `SandboxUnavailable` with every reason where none works.
    """
    await remove_tree(scratch_of(settings))  # with what a crash left in it
    make_scratch(scratch_of(settings))
    probed = await find_backend(settings, instance_of(settings.home))
    try:
        if probed.cgroups is not None and (left := await probed.cgroups.reap(REAP_S, everywhere=True)):
            log.warning("ended what an earlier run left", extra={"labels": left})
        yield probed.backend
    finally:
        if probed.cgroups is not None:
            probed.cgroups.close_nowait()


async def find_backend(settings: Settings, instance: str | None = None) -> Probed:
    """Return the sandbox that works here, with cgroups for an instance.

    Raises `SandboxUnavailable` with every reason where none works.
    """
    user = user_from_name(settings.sandbox_user) if settings.sandbox_user else default_user()
    probed = await probe(
        settings.sandbox_backend if settings.sandbox_enabled else "process",
        user=user,
        read_only=settings.sandbox_read_only,
        path=settings.sandbox_path,
        trusted=not settings.sandbox_enabled,
        image=settings.sandbox_image,
        images=settings.home / "podman",
        instance=instance,
        scratch=scratch_of(settings) if instance else None,
    )
    if not settings.sandbox_enabled:
        log.warning("SANDBOX_ENABLED=false: agents run as plain processes, without isolation")
    if settings.sandbox_enabled and settings.sandbox_image and probed.backend.name != "podman":
        log.warning(
            "agents do not run in SANDBOX_IMAGE",
            extra={"reason": probed.refusals.get("podman", "SANDBOX_BACKEND names another")},
        )
    if loose := [what for name, what in CEILINGS.items() if name not in probed.backend.enforced]:
        log.warning(
            "ceilings of %s are not enforced by this sandbox: bound the service as a whole",
            " and ".join(loose),
            extra={"sandbox": probed.backend.name},
        )
    log.info("sandbox", extra={"tier": probed.backend.tier, "refusals": probed.refusals})
    return probed


def describe_tools(settings: Settings, backend: Backend) -> tuple[str, ...]:
    """Return what tells whether a set-up would come to something else: the sandbox, and the tools in it.

    Of an image, that is the image; of the host's tools, the size and the time of each.
    """
    image = backend.image if isinstance(backend, PodmanBackend) else None
    told = [backend.name, image or "", settings.sandbox_path, *map(str, settings.sandbox_read_only)]
    for tool in () if image else SETUP_TOOLS:
        if (found := shutil.which(tool, path=settings.sandbox_path)) is not None:
            real = os.path.realpath(found)
            stat = Path(real).stat()
            told.append(f"{real} {stat.st_size} {stat.st_mtime_ns}")
    return tuple(told)


async def find_own_claude(settings: Settings, backend: Backend) -> Program | None:
    """Return the Claude Code of the image that agents run in, where one is wanted and there is one."""
    if backend.name != "podman" or settings.claude_api_key is None or settings.claude_code_path is not None:
        return None
    workspace, own = scratch_of(settings) / "image", None
    workspace.mkdir()
    os.chown(workspace, backend.user.uid, backend.user.gid)
    try:
        own = await own_program(Place(backend, Directory(workspace), "claude-code"))
    except SandboxError as error:
        log.warning("the image was not looked through for Claude Code", extra={"reason": str(error)})
    await remove_tree(workspace)
    return own
