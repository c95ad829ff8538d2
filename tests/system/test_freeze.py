"""Freeze, thaw, drain and the signals, on a real supervisor: what stands still, what goes on, what lasts."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.kit.processes import fresh_mark, marked
from tests.kit.remote import branches, hook, make_remote
from tests.kit.service import Service
from tests.kit.until import pause, until

#: Counts about a second and a half, where agents and gates work.
TICK = "i=0; while [ $i -lt 25 ]; do i=$((i + 1)); echo $i >> ticks; sleep 0.05; done"
FOREVER = "while :; do echo 1 >> ticks; sleep 0.05; done"


def ticks(service: Service) -> dict[int, int]:
    """Return how far everything has counted in the agents' directories, by the files' inodes."""
    found = {}
    for place, _, names in os.walk(service.home / "workspaces"):  # some of it is removed meanwhile
        if "ticks" in names:
            with suppress(FileNotFoundError):
                stat = Path(place, "ticks").stat()
                found[stat.st_ino] = stat.st_size
    return found


def counts_on(service: Service) -> None:
    """Wait until something has counted on a few times."""
    before = ticks(service)
    until(
        lambda: any(size > before.get(inode, 0) + 6 for inode, size in ticks(service).items()),
        "somebody counts on",
    )


def assert_still(service: Service, for_s: float = 0.5) -> None:
    """Assert that nothing counts for a while; what has ended may be removed meanwhile."""
    until(lambda: ticks(service) == ticks(service), "no removal is under way")
    before = ticks(service)
    pause(for_s)
    assert ticks(service).items() <= before.items()


def freeze(service: Service) -> dict[str, object]:
    """Freeze and return the answer."""
    status, answer = service.call("POST", "/freeze")
    assert (status, answer["frozen"]) == (200, True), answer
    assert service.call("GET", "/health")[1]["frozen"] is True
    return dict(answer)


def thaw(service: Service) -> dict[str, object]:
    """Thaw and return the answer."""
    status, answer = service.call("POST", "/thaw")
    assert (status, answer["frozen"]) == (200, False), answer
    assert service.call("GET", "/health")[1]["frozen"] is False
    return dict(answer)


def audited(service: Service, action: str) -> list[tuple[str, str]]:
    """Return who asked for the action and the outcomes, in order, as the trail on the disk has them."""
    with sqlite3.connect(f"file:{service.home}/orchestrator.db?mode=ro", uri=True) as trail:
        rows = trail.execute("SELECT actor, outcome FROM audit WHERE action = ? ORDER BY seq", (action,))
        found = [(str(actor), str(outcome)) for actor, outcome in rows]
    trail.close()
    return found


def task_name() -> str:
    """Return a task id that no other test uses."""
    return f"f-{uuid.uuid4().hex[:8]}"


def test_everything_stands_still_and_goes_on_as_the_same_processes(service: Service, remotes: Path) -> None:
    mark, remote = fresh_mark("frozen"), make_remote(remotes, task_name())
    script = f"setsid sh -c ': {mark}; sleep 1000; :' & {FOREVER.replace('do', f'do : {mark};', 1)}"
    agents = [service.spawn(remote, script) for _ in range(3)]
    for agent in agents:
        service.wait_phase(agent, "working")
    counts_on(service)
    lasting = set(marked(mark))
    counts_on(service)
    lasting &= set(marked(mark))
    answer = freeze(service)
    assert (answer["agents"], answer["starting"], answer["draining"]) == (3, 0, False)
    assert_still(service)
    assert freeze(service)["processes"] == answer["processes"]
    status, problem = service.call("POST", "/agents/spawn", service.request_body(remote, "true", task_name()))
    assert (status, problem["code"]) == (503, "frozen")
    assert_still(service, 1.2)  # it is held: by then it was stopped once more
    assert lasting <= set(marked(mark))
    assert thaw(service)["agents"] == 3
    counts_on(service)
    assert lasting <= set(marked(mark))
    assert thaw(service)["frozen"] is False
    assert service.call("POST", "/agents/kill-all")[1]["remaining"] == 0
    assert not marked(mark)
    assert audited(service, "control.freeze")[:2] == [("admin", "requested"), ("admin", "frozen")]
    assert audited(service, "control.thaw")[:2] == [("admin", "requested"), ("admin", "thawed")]
    assert audited(service, "agents.kill_all")[0] == ("admin", "requested")


def test_no_deadline_runs_out_over_a_freeze(service: Service, remotes: Path) -> None:
    gated = {"orchestrator.toml": f'[gates.tests]\ncommand = ["sh", "-c", "{TICK}"]\ntimeout = 6\n'}
    remote = make_remote(remotes, task_name(), gated)
    options = {"timeout": 12}
    agent = service.spawn(
        remote, f"{TICK}; rm ticks; echo 1 > done", options=options, gateProfile="minimal", gates=None
    )
    service.wait_phase(agent, "working")
    counts_on(service)
    freeze(service)
    assert_still(service, 6.5)
    thaw(service)
    service.wait_phase(agent, "checking")
    counts_on(service)
    freeze(service)
    assert_still(service, 6.5)
    assert service.status(agent)["gates"] == []
    thaw(service)
    end = service.wait(agent)
    assert (end["status"], end["reason"]) == ("completed", "done"), end
    assert end["gates"][0]["approved"], end
    assert end["gates"][0]["durationMs"] < 6000


def test_no_landing_begins_while_frozen_and_a_push_under_way_arrives(service: Service, remotes: Path) -> None:
    remote, task = make_remote(remotes, task_name()), task_name()
    entered, leave = remotes / f"{task}.entered", remotes / f"{task}.leave"
    hook(remote, "pre-receive", f"touch {entered}; while [ ! -e {leave} ]; do sleep 0.02; done")
    pushing = service.spawn(remote, "echo 1 > a", task)
    until(entered.exists, "the push is under way")
    working = service.spawn(remote, f"{TICK}; rm ticks; echo 1 > b", task_name())
    service.wait_phase(working, "working")
    counts_on(service)
    freeze(service)
    leave.touch()
    assert service.wait(pushing)["reason"] == "done"
    assert f"agent/{task}" in branches(remote)
    assert_still(service)
    assert service.status(working)["phase"] == "working"
    thaw(service)
    assert service.wait(working)["reason"] == "done"


def test_frozen_agents_are_killed_with_proof(service: Service, remotes: Path) -> None:
    mark, remote = fresh_mark("cold"), make_remote(remotes, task_name())
    zoo = f"trap '' TERM; setsid sleep 1000 & {FOREVER}"
    agents = [service.spawn(remote, zoo, options={"env": {"MARK": mark}}) for _ in range(3)]
    for agent in agents:
        service.wait_phase(agent, "working")
    counts_on(service)
    freeze(service)
    status, answer = service.call("POST", f"/agents/{agents[0]}/kill")
    assert (status, answer["remaining"]) == (200, 0), answer
    assert answer["killedProcesses"] >= 2
    entries = audited(service, "agent.kill")
    assert entries[-2:] == [("admin", "requested"), ("admin", "killed")]
    answer = service.call("POST", "/agents/kill-all?freeze=true")[1]
    assert (answer["killed"], answer["remaining"]) == (2, 0), answer
    assert not marked(mark)
    until(lambda: not service.agent_directories(), "what they had is salvaged and removed, frozen or not")
    thaw(service)


def test_kill_all_with_freeze_leaves_nothing_and_admits_nothing(service: Service, remotes: Path) -> None:
    mark, remote = fresh_mark("both"), make_remote(remotes, task_name())
    for _ in range(12):
        service.spawn(remote, "sleep 1000", options={"env": {"MARK": mark}, "maxRetries": 3})
    until(lambda: marked(mark), "some work")
    status, answer = service.call("POST", "/agents/kill-all?freeze=true")
    assert (status, answer["total"], answer["failed"], answer["remaining"]) == (200, 12, 0, 0), answer
    assert not marked(mark)
    status, problem = service.call("POST", "/agents/spawn", service.request_body(remote, "true", task_name()))
    assert (status, problem["code"]) == (503, "frozen")
    thaw(service)
    assert service.wait(service.spawn(remote, "true"))["status"] == "completed"


def test_freeze_at_any_moment_and_thaw_lose_nothing(service: Service, remotes: Path) -> None:
    remote = make_remote(remotes, task_name())
    agents = []
    for number in range(12):
        agents.append(service.spawn(remote, f"echo {number} > n; sleep 0.02; echo 1 >> ticks"))
        pause(number * 0.015)
        assert freeze(service)["starting"] == 0
        assert_still(service, 0.05)
        thaw(service)
    for agent in agents:
        assert service.wait(agent)["status"] == "completed"


def test_frozen_survives_a_sigkill_and_a_stop_and_thaw_resumes(own_service: Service) -> None:
    mark, service = fresh_mark("latched"), own_service
    service.start()
    remote = make_remote(service.remotes)
    script = f'[ "$ORCHESTRATOR_RESUMED" = 1 ] && echo again > again && exit; {FOREVER}'
    agents = [service.spawn(remote, script, f"latch-{n}", options={"env": {"MARK": mark}}) for n in range(2)]
    for agent in agents:
        service.wait_phase(agent, "working")
    freeze(service)
    service.kill9()
    until(lambda: not marked(mark), "nothing outlives the supervisor", 2)
    service.start()
    assert service.call("GET", "/health")[1]["frozen"] is True
    pause(0.3)
    assert [service.status(agent)["phase"] for agent in agents] == ["queued", "queued"]
    assert not marked(mark)
    began = time.monotonic()
    assert service.stop() == 0  # nothing runs that a stop could wait for
    assert time.monotonic() - began < 15
    service.start()
    assert service.call("GET", "/health")[1]["frozen"] is True
    thaw(service)
    for agent in agents:
        assert service.wait(agent)["status"] == "completed"


def test_signals_freeze_drain_and_cut(own_service: Service) -> None:
    mark, service = fresh_mark("signals"), own_service
    service.start()
    assert service.process is not None
    remote = make_remote(service.remotes)
    script = f'[ "$ORCHESTRATOR_RESUMED" = 1 ] && echo again > again && exit; {FOREVER}'
    agent = service.spawn(remote, script, "sig-1", options={"env": {"MARK": mark}})
    service.wait_phase(agent, "working")
    counts_on(service)
    service.process.send_signal(signal.SIGUSR1)
    until(lambda: service.call("GET", "/health")[1]["frozen"], "frozen by a signal")
    assert_still(service)
    service.process.send_signal(signal.SIGUSR1)
    assert service.stop() == 0  # what stands still is not waited for
    assert not marked(mark)
    assert audited(service, "control.freeze")[0] == ("SIGUSR1", "requested")
    assert audited(service, "control.stop") == [("SIGTERM", "stopped")]
    service.start()
    thaw(service)
    assert service.wait(agent)["status"] == "completed"


def test_sigterm_lets_agents_end_and_a_second_one_cuts_them(own_service: Service) -> None:
    mark, service = fresh_mark("drained"), own_service
    service.start()
    assert service.process is not None
    remote, go = make_remote(service.remotes), service.root / "go"
    hook(remote, "pre-receive", f"touch {service.root}/arrived; while [ ! -e {go} ]; do sleep 0.02; done")
    landing = service.spawn(remote, "echo 1 > a", "drain-1")
    until((service.root / "arrived").exists, "it lands")
    service.process.send_signal(signal.SIGTERM)
    until(lambda: not service.call("GET", "/agents?status=completed")[1]["agents"], "it still answers")
    status, problem = service.call("POST", "/agents/spawn", service.request_body(remote, "true", "late"))
    assert (status, problem["code"]) == (503, "draining")
    go.touch()
    assert service.process.wait(30) == 0
    assert "agent/drain-1" in branches(remote)
    service.start()
    assert service.status(landing)["status"] == "completed"
    script = '[ "$ORCHESTRATOR_RESUMED" = 1 ] || sleep 1000'
    working = service.spawn(remote, script, "drain-2", options={"env": {"MARK": mark}})
    service.wait_phase(working, "working")
    service.process.send_signal(signal.SIGTERM)
    until(lambda: ("SIGTERM", "draining") in audited(service, "control.drain")[2:], "it drains")
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(30) == 0
    assert not marked(mark)
    service.start()
    assert service.wait(working)["status"] == "completed"


def test_kill_and_freeze_work_while_streams_and_logs_flood(service: Service, remotes: Path) -> None:
    mark, remote = fresh_mark("flood"), make_remote(remotes, task_name())
    flood = 'x=$(printf "%0999d" 1); while :; do echo $x; echo $x >> ticks; done'
    agents = [service.spawn(remote, flood, options={"env": {"MARK": mark}}) for _ in range(3)]
    for agent in agents:
        service.wait_phase(agent, "working")
    port, token = service.env["ORCHESTRATOR_PORT"], service.env["ORCHESTRATOR_API_KEY"]
    head = f"Host: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    with ExitStack() as streams:
        for number in range(300):  # of which nobody reads
            stream = streams.enter_context(socket.create_connection(("127.0.0.1", int(port))))
            path = "/events?after=0" if number % 3 else f"/agents/{agents[number % 9 // 3]}/logs?follow"
            stream.sendall(f"GET {path} HTTP/1.1\r\n{head}".encode())
        for _ in range(3):
            freeze(service)
            assert_still(service, 0.3)
            thaw(service)
            counts_on(service)
        status, answer = service.call("POST", f"/agents/{agents[0]}/kill")
        assert (status, answer["remaining"]) == (200, 0), answer
        assert service.process is not None
        service.process.send_signal(signal.SIGUSR1)
        until(lambda: service.call("GET", "/health")[1]["frozen"], "frozen by a signal")
        assert_still(service)
        answer = service.call("POST", "/agents/kill-all")[1]
        assert (answer["killed"], answer["remaining"]) == (2, 0), answer
        assert not marked(mark)
        thaw(service)


def test_drain_lets_agents_end_and_ends_with_a_thaw_or_a_restart(own_service: Service) -> None:
    service = own_service
    service.start()
    remote, go = make_remote(service.remotes), service.remotes / "go"
    hook(remote, "pre-receive", f"while [ ! -e {go} ]; do sleep 0.02; done")
    agent = service.spawn(remote, "echo 1 > a", "run-out")
    service.wait_phase(agent, "landing")
    status, answer = service.call("POST", "/drain")
    assert (status, answer["draining"], answer["agents"]) == (200, True, 1)
    body = service.request_body(remote, "true", "later")
    assert service.call("POST", "/agents/spawn", body)[1]["code"] == "draining"
    assert service.call("POST", "/queue/resume")[0] == 200  # is about the queue, and ends no drain
    assert service.call("POST", "/agents/spawn", body)[1]["code"] == "draining"
    go.touch()
    assert service.wait(agent)["status"] == "completed"
    assert service.call("POST", "/thaw")[1]["draining"] is False
    assert service.call("POST", "/agents/spawn", body)[0] == 201
    assert service.call("POST", "/drain")[0] == 200
    service.kill9()
    service.start()
    assert service.call("POST", "/tasks", service.request_body(remote, "true", "last"))[0] == 201
