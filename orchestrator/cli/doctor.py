"""The command that says what works on this host and what does not, with the fix for each: doctor.

Exit status 1 where something is missing that the orchestrator needs. Callers: `orchestrator.__main__`, by
its table.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.failure import Failed
from orchestrator.cli.patience import patience
from orchestrator.cli.session import Session, supervised
from orchestrator.cli.timeline import duration, plural

#: What helps where gates are skipped.
NO_YOLO = "unset YOLO_MODE and restart, unless nothing that lands matters"

if TYPE_CHECKING:
    from orchestrator.cli.checks import Check
    from orchestrator.config import Settings
    from sandbox.base import User
    from sandbox.probe import Probed


@click.command()
@supervised
def doctor(session: Session) -> int:
    """Say what works here and what does not, with the fix for each."""
    from orchestrator.cli.interruption import run_interruptible  # noqa: PLC0415 - Trio, which `--help` need not pay

    with patience("looking around"):
        findings = run_interruptible(partial(_examine, session))
    missing = [check for check in findings if check.state == "missing"]
    if session.output.as_json:
        session.output.json({"ok": not missing, "checks": [dataclasses.asdict(check) for check in findings]})
    else:
        _show(session, findings)
    return 1 if missing else 0


def _show(session: Session, findings: list[Check]) -> None:
    marks = {
        "ok": ("ok       ", "green"),
        "warning": ("warning  ", "yellow"),
        "missing": ("MISSING  ", "red"),
    }
    width = max(len(check.name) for check in findings)
    for check in findings:
        session.output.line(marks[check.state], (f"{check.name:<{width}}  ", "bold"), check.detail)
        if check.fix:
            session.output.line(" " * (11 + width), (f"-> {check.fix}", "dim"))
    counts = Counter(check.state for check in findings)
    if counts["missing"]:
        session.output.line((f"{plural(counts['missing'], 'thing')} must be put right", "red"))
    else:
        warnings = f", {plural(counts['warning'], 'warning')}" if counts["warning"] else ""
        session.output.line((f"ready to serve{warnings}", "green"))


async def _examine(session: Session) -> list[Check]:
    from orchestrator.cli import checks  # noqa: PLC0415 - as above
    from orchestrator.config import read_settings  # noqa: PLC0415 - as above
    from orchestrator.errors import SettingsError  # noqa: PLC0415 - as above

    findings = [checks.python_version(), await checks.git_version()]
    try:
        settings = read_settings()
    except SettingsError as error:
        return [*findings, checks.Check("settings", "missing", error.detail, "correct or unset it")]
    findings += checks.unused_settings(settings)
    if settings.yolo_mode:
        findings.append(checks.Check("gates", "warning", "YOLO_MODE: quality gates disabled", NO_YOLO))
    findings += checks.short_secrets(settings)
    probed, found = await _sandbox(settings)
    findings += found
    findings += checks.state_directory(settings, probed.backend.user if probed else None)
    findings += await checks.coordinator(settings)
    findings += await checks.valkey(settings)
    findings.append(await _supervisor(session, settings))
    return findings


async def _sandbox(settings: Settings) -> tuple[Probed | None, list[Check]]:
    from orchestrator.cli import checks  # noqa: PLC0415 - as above
    from sandbox.base import SandboxError  # noqa: PLC0415 - as above
    from sandbox.probe import default_user, probe, user_from_name  # noqa: PLC0415 - as above

    try:
        user = user_from_name(settings.sandbox_user) if settings.sandbox_user else default_user()
        probed = await probe(
            settings.sandbox_backend if settings.sandbox_enabled else "process",
            user=user,
            read_only=settings.sandbox_read_only,
            path=settings.sandbox_path,
            trusted=not settings.sandbox_enabled,
            instance=f"doctor-{os.getpid()}",
            may_move=False,  # who asked us may be in our cgroup, too
            image=settings.sandbox_image,
            images=settings.home / "podman",
        )
    except SandboxError as error:
        fix = "install bubblewrap (apt install bubblewrap), or for trusted agents only SANDBOX_ENABLED=false"
        return None, [checks.Check("sandbox", "missing", str(error), fix)]
    backend = probed.backend
    others = "; ".join(
        f"{name}: {why}" for name, why in probed.refusals.items() if name in {"podman", "bubblewrap"}
    )
    detail = f"{backend.name}, agents run as {backend.user.name}" + (f" ({others})" if others else "")
    findings = [checks.Check("sandbox", "ok", detail), *checks.limits(backend, probed.refusals)]
    try:
        with tempfile.TemporaryDirectory(
            prefix="orchestrator-doctor-", ignore_cleanup_errors=True
        ) as scratch:
            workspace = _workspace(Path(scratch), backend.user)
            findings += await checks.tools_inside(backend, workspace)
            findings.append(await checks.claude_code(settings, backend, workspace))
    except SandboxError as error:
        findings.append(checks.Check("tools", "missing", str(error)))
    finally:
        if probed.cgroups is not None:
            probed.cgroups.close_nowait()
    return probed, findings


def _workspace(scratch: Path, user: User) -> Path:
    """Make a directory that is the user's, in one that the user may enter."""
    scratch.chmod(0o711)
    workspace = scratch / "workspace"
    workspace.mkdir()
    os.chown(workspace, user.uid, user.gid)
    return workspace


async def _supervisor(session: Session, settings: Settings) -> Check:
    """Ask a supervisor that runs how it is, or see whether one could."""
    from orchestrator.cli import checks  # noqa: PLC0415 - as above
    from orchestrator.client import ClientError, Unreachable  # noqa: PLC0415 - as above

    try:
        async with session.open() as client:
            health = await client.health()
    except Unreachable:
        return checks.port_free(settings.host, settings.port)
    except (ClientError, Failed) as error:
        fix = "set ORCHESTRATOR_PORT to another, or end what holds it"
        return checks.Check("supervisor", "missing", f"something else answers: {error}", fix)
    up = duration(float(health.get("uptime", 0)) * 1000)
    detail = f"{health.get('status')}, version {health.get('version')}, up for {up}"
    frozen = " (frozen: `orchestrator thaw` lets it go on)" if health.get("frozen") else ""
    if health.get("yolo"):
        return checks.Check(
            "supervisor", "warning", f"{detail}{frozen}; YOLO_MODE: its gates are off", NO_YOLO
        )
    return checks.Check("supervisor", "ok", detail + frozen)
