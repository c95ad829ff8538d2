"""From the request to the proof: how long a kill takes, and what it leaves alive.

1, 10 and 100 agents, each a zoo of fifty processes that do not want to end (`tests/kit/zoo.py`), are ended
in three ways that take turns: by this orchestrator (POST kill or kill-all, answered after the proof), by
hand (the *floor*: the same zoo in a PID namespace, SIGKILL to its init, wait for its end) and by supervisord
(`stop` with `stopsignal=KILL`, `stopasgroup` and `killasgroup`, over its own XML-RPC). After each, /proc is
searched for survivors by a mark in their environment. Prints one JSON line a figure: milliseconds,
survivors, and the ratio to the floor. Run as `python bench/kill.py [most agents]`, BENCH_ROUNDS rounds of
each; without the package `supervisor`, supervisord is left out and said so.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.kit.processes import fresh_mark, marked
from tests.kit.remote import make_remote
from tests.kit.service import Service
from tests.kit.until import until
from tests.kit.zoo import ZOO, ZOO_PROCESSES

try:
    from supervisor.xmlrpc import SupervisorTransport
except ImportError:
    SupervisorTransport = None

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
SIZES = (1, 10, 100)
#: How long a hundred zoos may take to open, on few cores.
OPEN_S = 240.0
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc")


def wait_open(mark: str, agents: int) -> None:
    """Wait until every zoo has all its processes."""
    until(lambda: len(marked(mark)) >= ZOO_PROCESSES * agents, f"{agents} zoos are open", OPEN_S)


def clear(mark: str) -> int:
    """Count what has survived, and end it."""
    survivors = marked(mark)
    while left := marked(mark):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return len(survivors)


# --- the orchestrator --------------------------------------------------------------------------------------


def post(service: Service, path: str) -> tuple[float, dict[str, Any]]:
    """Make one request over a connection of its own; return the milliseconds to its answer, and that.

    By the plainest client there is: the time of a client's own comforts is not the orchestrator's.
    """
    headers = {"Authorization": f"Bearer {service.env['ORCHESTRATOR_API_KEY']}"}
    client = http.client.HTTPConnection("127.0.0.1", int(service.env["ORCHESTRATOR_PORT"]), timeout=30)
    with contextlib.closing(client):
        began = time.monotonic()
        client.request("POST", path, headers=headers)
        response = client.getresponse()
        body = response.read()
        took_ms = (time.monotonic() - began) * 1000
    assert response.status == 200, body
    return took_ms, json.loads(body)


def ours(service: Service, remote: Path, agents: int) -> tuple[float, int]:
    """Return the milliseconds from the request to its answer, and the survivors."""
    mark = fresh_mark("zoo")
    ids = [service.spawn(remote, ZOO, options={"env": {"MARK": mark}}) for _ in range(agents)]
    wait_open(mark, agents)
    path = f"/agents/{ids[0]}/kill" if agents == 1 else "/agents/kill-all"
    took_ms, answer = post(service, path)
    assert answer["remaining"] == 0, answer
    survivors = clear(mark)
    for agent in ids:
        service.wait_phase(agent, None)
    return took_ms, survivors


# --- by hand -----------------------------------------------------------------------------------------------


def by_hand(agents: int) -> tuple[float, int]:
    """Do the same with a SIGKILL to the init of each namespace, and wait for its end."""
    mark = fresh_mark("floor")
    env = {"PATH": "/usr/bin:/bin", "MARK": mark}
    outer = [
        subprocess.Popen(
            [*NAMESPACE, "sh", "-c", ZOO], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        for _ in range(agents)
    ]
    wait_open(mark, agents)
    inits = [int(Path(f"/proc/{one.pid}/task/{one.pid}/children").read_text().split()[0]) for one in outer]
    pidfds = [os.pidfd_open(pid) for pid in inits]
    began = time.monotonic()
    for pidfd in pidfds:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    for one in outer:  # it ends when it has reaped its child, the init
        one.wait()
    took_ms = (time.monotonic() - began) * 1000
    for one, pidfd in zip(outer, pidfds, strict=True):
        os.close(pidfd)
        assert one.stdout is not None
        one.stdout.close()
    return took_ms, clear(mark)


# --- supervisord -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def supervisord(root: Path, agents: int, mark: str) -> Iterator[xmlrpc.client.ServerProxy]:
    """Run a supervisord with so many zoos."""
    (root / "zoo.sh").write_text(ZOO)
    socket = root / "supervisor.sock"
    (root / "supervisord.conf").write_text(
        f"[supervisord]\nnodaemon=true\nlogfile={root}/log\npidfile={root}/pid\nchildlogdir={root}\nminfds=4096\n"
        f"[unix_http_server]\nfile={socket}\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
        f'[program:zoo]\ncommand=sh {root}/zoo.sh\nenvironment=MARK="{mark}"\nnumprocs={agents}\n'
        "process_name=zoo_%(process_num)d\nstartsecs=0\nautorestart=false\nstopsignal=KILL\n"
        "stopasgroup=true\nkillasgroup=true\nredirect_stderr=true\nstdout_logfile=NONE\n"
    )
    argv = [sys.executable, "-m", "supervisor.supervisord", "-c", str(root / "supervisord.conf")]
    with (root / "out").open("wb") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out)
    try:
        until(socket.exists, "supervisord listens", 30)
        yield xmlrpc.client.ServerProxy(
            "http://127.0.0.1", transport=SupervisorTransport(None, None, f"unix://{socket}")
        )
    finally:
        process.terminate()
        process.wait(60)


def by_supervisord(agents: int) -> tuple[float, int]:
    """Return the milliseconds until supervisord says that all are stopped, and the survivors."""
    mark = fresh_mark("peer")
    with (
        tempfile.TemporaryDirectory(prefix="bench-kill-") as root,
        supervisord(Path(root), agents, mark) as server,
    ):
        wait_open(mark, agents)
        began = time.monotonic()
        server.supervisor.stopAllProcesses(True)
        took_ms = (time.monotonic() - began) * 1000
        return took_ms, clear(mark)


# --- all ---------------------------------------------------------------------------------------------------


def percentile(values: list[float], share: float) -> float:
    """Return the value below which this share lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def report(agents: int, figures: dict[str, list[tuple[float, int]]]) -> None:
    """Print p50 and p99 of each way beside the floor."""
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        floor = percentile([took for took, _ in figures["floor"]], share)
        for way, seen in figures.items():
            took = percentile([took for took, _ in seen], share)
            figure = {
                "bench": "kill",
                "figure": f"request to proof, {agents} zoos, {way}, {name}",
                "ms": round(took, 1),
                "ratio": round(took / floor, 2),
                "survivors": max(survivors for _, survivors in seen),
                "rounds": len(seen),
            }
            print(json.dumps(figure), flush=True)


def main() -> None:
    """Run the bench in a temporary directory."""
    most = int(sys.argv[1]) if len(sys.argv) > 1 else SIZES[-1]
    if SupervisorTransport is None:
        print("supervisord is left out: pip install supervisor", file=sys.stderr)
    root = Path(tempfile.mkdtemp(prefix="bench-kill-"))
    settings = {
        "LOG_LEVEL": "warning",
        "MAX_CONCURRENT_AGENTS": str(most),
        "ORCHESTRATOR_QUEUE_CONCURRENCY": str(most),
    }
    try:
        with Service(root, **settings) as service:
            remote = make_remote(service.remotes)
            ours(service, remote, 1)  # the shared checkout is made once
            for agents in (size for size in SIZES if size <= most):
                figures: dict[str, list[tuple[float, int]]] = {
                    "orchestrator": [],
                    "floor": [],
                }
                for _ in range(ROUNDS if agents < SIZES[-1] else max(3, ROUNDS // 5)):
                    figures["orchestrator"].append(ours(service, remote, agents))
                    figures["floor"].append(by_hand(agents))
                    if SupervisorTransport is not None:
                        figures.setdefault("supervisord", []).append(by_supervisord(agents))
                report(agents, figures)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
