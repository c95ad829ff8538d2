"""F8: whatever state Valkey is in, agents land and are killed; when it is back, the mirror is the journal."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kit.remote import branches, make_remote
from tests.kit.service import Service
from tests.kit.until import until
from tests.kit.valkey import Listener, Valkey, running_valkey

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def condition(service: Service) -> str:
    """Return how the mirror is; the orchestrator is ready all the same."""
    status, answer = service.call("GET", "/health/ready")
    assert (status, answer["status"]) == (200, "ready")
    return str(answer["checks"]["valkey"])


def verify(service: Service, *flags: str) -> tuple[int, dict[str, Any]]:
    """Run `orchestrator mirror verify`; return its exit status and its answer."""
    command = [sys.executable, "-m", "orchestrator", "mirror", "verify", "--json", *flags]
    done = subprocess.run(command, env=service.env, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, json.loads(done.stdout or "{}")


def strike_and_work(service: Service, valkey: Valkey, remote: Path, name: str) -> None:
    """Land a task and kill an agent, while Valkey is not there."""
    until(lambda: condition(service).startswith("degraded: "), f"{name} is noticed")
    landing = service.spawn(remote, "echo x > x", f"lands-{name}")
    doomed = service.spawn(remote, "sleep 1000", f"dies-{name}")
    service.wait_phase(doomed, "working")
    status, killed = service.call("POST", f"/agents/{doomed}/kill")
    assert (status, killed["remaining"]) == (200, 0)
    assert service.wait(landing)["status"] == "completed"
    assert f"agent/lands-{name}" in branches(remote)


def test_f08_valkey_may_be_in_any_state_and_nobody_waits_for_it(own_service: Service, tmp_path: Path) -> None:
    service = own_service
    remote = make_remote(service.remotes)
    with running_valkey(tmp_path, "--requirepass", "a-password-of-ours") as valkey:
        valkey.client.connection_pool.connection_kwargs["password"] = "a-password-of-ours"
        service.env["VALKEY_URL"] = f"redis://:a-password-of-ours@127.0.0.1:{valkey.port}/0"
        service.start()
        until(lambda: condition(service) == "ok", "it is mirrored")
        valkey.signal(signal.SIGSTOP)
        strike_and_work(service, valkey, remote, "stopped")
        valkey.signal(signal.SIGCONT)
        until(lambda: condition(service) == "ok", "it is mirrored again")
        assert valkey.json("orchestrator:task:lands-stopped")["status"] == "completed"
        valkey.kill()
        strike_and_work(service, valkey, remote, "killed")
        assert verify(service)[0] == 1
        valkey.start()
        until(lambda: condition(service) == "ok", "it is mirrored once more")
        listener = Listener(valkey)
        valkey.client.flushall()
        until(lambda: valkey.client.exists("orchestrator:task:dies-killed"), "it was made anew")
        until(lambda: condition(service) == "ok", "it is whole")
        assert verify(service) == (0, {"compared": 8, "differing": 0, "repaired": 0, "differences": []})
        valkey.client.set("orchestrator:task:dies-killed", "{}")
        assert verify(service)[0] == 1
        assert verify(service, "--repair")[1]["repaired"] == 1
        assert valkey.json("orchestrator:task:dies-killed")["status"] == "cancelled"
        last = service.wait(service.spawn(remote, "echo y > y", "heard"))["agentId"]
        until(lambda: any(told.get("agentId") == last for told in listener.listen()), "it is heard")
        assert (seqs := listener.seqs()) == list(range(seqs[0], seqs[0] + len(seqs)))
        listener.close()
        valkey.client.close()
        service.stop()
    assert "a-password-of-ours" not in service.log.read_text()
