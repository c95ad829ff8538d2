"""A real supervisor process on a temporary home, driven over HTTP as a stranger would drive it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from sandbox.delegation import CgroupsUnavailable, find_delegated, instance_of
from sandbox.leaf import Leaf
from tests.kit.measured import measured
from tests.kit.until import until

ROOT = Path(__file__).resolve().parents[2]
ENDED = ("completed", "failed", "killed")
READY_S = 30.0
STOP_S = 40.0


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service:
    """One `orchestrator serve`; more settings are given by name."""

    def __init__(self, root: Path, **settings: str) -> None:
        root.chmod(0o755)  # agents of a root supervisor run as another user
        self.root, self.home, self.remotes = root, root / "home", root / "remotes"
        self.remotes.mkdir(exist_ok=True)
        self.log = root / "serve.log"
        port = free_port()
        key = "test-" + uuid.uuid4().hex
        kept = ("PATH", "HOME", "LANG", "TMPDIR")
        self.env = {
            **{name: os.environ[name] for name in kept if name in os.environ},
            **measured(),
            "PYTHONPATH": str(ROOT),
            "ORCHESTRATOR_HOME": str(self.home),
            "ORCHESTRATOR_PORT": str(port),
            "ORCHESTRATOR_API_KEY": key,
            "PROJECTS_DIR": str(self.remotes),
            "MAX_CONCURRENT_AGENTS": "10",
            "ORCHESTRATOR_QUEUE_CONCURRENCY": "10",
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "debug",
            **settings,
        }
        self.http = httpx2.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=30,
            verify=False,  # nothing is asked by TLS, and all the world's certificates take 40 ms to read
            # A kept connection that the server closes between two tests would look like a leak of the second.
            limits=httpx2.Limits(max_keepalive_connections=0),
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.seen: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.http.close()

    # --- the process ---------------------------------------------------------------------------------------

    def start(self) -> float:
        """Start the process and return the seconds until it says ready."""
        began = time.monotonic()
        self.launch()

        def ready() -> bool:
            return self.process is None or self.process.poll() is not None or self.answers()

        until(ready, "the supervisor is ready", READY_S)
        assert self.process is not None
        if self.process.poll() is None:
            return time.monotonic() - began
        raise AssertionError(f"the supervisor ended: {self.log.read_text(errors='replace')[-3000:]}")

    def launch(self, *before: str) -> None:
        """Start the process, by another program where one is named, and wait for nothing."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-m", "orchestrator", "serve"],
                env=self.env,
                stdout=log,
                stderr=log,
                cwd=self.root,
            )

    def answers(self, path: str = "/health/ready") -> bool:
        """Return whether this is answered, and well."""
        try:
            return self.http.get(path).status_code == 200
        except httpx2.TransportError:
            return False

    def kill9(self) -> None:
        """End the process as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Stop the process in good order and return its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        elif self.process.returncode == -signal.SIGKILL:
            self._sweep()
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise AssertionError(f"the supervisor did not stop within {STOP_S} s") from None

    def _sweep(self) -> None:
        """Remove the cgroups of a killed supervisor that is never started again."""
        with suppress(CgroupsUnavailable, FileNotFoundError):
            Leaf(find_delegated() / f"orchestrator-{instance_of(self.home)}").remove_nowait()

    # --- its API -------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: object = None, **more: object) -> tuple[int, Any]:
        """Make one request; return the status and the JSON of the answer (or its text)."""
        answer = (
            self.http.request(method, path, json=body, **more)
            if body is not None
            else self.http.request(method, path, **more)
        )
        try:
            return answer.status_code, answer.json()
        except json.JSONDecodeError:
            return answer.status_code, answer.text

    def request_body(self, remote: Path | str, script: str, task: str, **over: object) -> dict[str, Any]:
        """Return the body of a spawn; `options` and `context` are merged, other fields replaced."""
        url = remote if isinstance(remote, str) else f"file://{remote}"
        body: dict[str, Any] = {
            "taskId": task,
            "gateProfile": "custom",
            "gates": [],
            "context": {"repository": url, "branch": "main", "workItems": ["W-1"], "instructions": "do it"},
            "options": {"runtime": "command", "command": ["sh", "-c", script], "maxRetries": 0},
        }
        for name, value in over.items():
            body[name] = {**body[name], **value} if name in ("options", "context") else value
        return body

    def spawn(self, remote: Path | str, script: str, task: str | None = None, **over: object) -> str:
        """Spawn an agent and return its id."""
        task = task or "t-" + uuid.uuid4().hex[:8]
        status, answer = self.call("POST", "/agents/spawn", self.request_body(remote, script, task, **over))
        assert status == 201, answer
        assert answer["status"] == "spawning"
        return str(answer["agentId"])

    def status(self, agent: str) -> dict[str, Any]:
        """Return the agent's status."""
        status, answer = self.call("GET", f"/agents/{agent}/status")
        assert status == 200, answer
        return dict(answer)

    def wait(self, agent: str, *, until: tuple[str, ...] = ENDED, within_s: float = 60) -> dict[str, Any]:
        """Wait until the agent has one of these statuses."""
        return self._poll(agent, "status", until, within_s)

    def wait_phase(self, agent: str, *phases: str | None, within_s: float = 60) -> dict[str, Any]:
        """Wait until the agent is in one of these phases."""
        return self._poll(agent, "phase", phases, within_s)

    def _poll(
        self, agent: str, field: str, wanted: tuple[str | None, ...], within_s: float
    ) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            self.seen = self.status(agent)
            return self.seen if self.seen.get(field) in wanted else None

        try:
            return until(look, f"{agent} is {wanted}", within_s) or {}
        except AssertionError as late:
            raise AssertionError(f"{late}: {self.seen}; log: {self.log.read_text()[-3000:]}") from None

    def task_events(self, task: str) -> list[dict[str, Any]]:
        """Return the journaled events of a task."""
        status, answer = self.call("GET", f"/tasks/{task}")
        assert status == 200, answer
        return list(answer["events"])

    def agent_directories(self) -> list[str]:
        """Return what lies in the directory of the agents' worktrees."""
        place = self.home / "workspaces"
        return sorted(entry.name for entry in place.iterdir()) if place.exists() else []
